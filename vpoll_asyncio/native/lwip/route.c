/* Where packets go: the tables of routes, and next hops.
 *
 * lwIP knows one gateway for an interface, /64 for every IPv6 network, and sends what it has
 * no route for to a default interface.  ip4_route() and ip6_route() are interposed, so that
 * the longest prefix wins and what has no route is unreachable, as in the kernel's tables. */

#include "shim.h"
#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/ip4.h"
#include "lwip/ip6.h"
#include "lwip/nd6.h"
#include "lwip/priv/nd6_priv.h"

struct route {
    ip_addr_t net, via;         /* via: any where the destination is a neighbour */
    int prefix;
    int subnet;                 /* comes and goes with an address */
    struct netif *netif;
};

static struct route *routes;
static size_t route_count, route_room;
static u32_t narrowest;         /* the longest of the routes' IPv4 masks, in the host's order */

void route_address(const struct vp_addr *addr, ip_addr_t *ip)
{
    memset(ip, 0, sizeof *ip);
    if (addr->family == 4) {
        IP_SET_TYPE_VAL(*ip, IPADDR_TYPE_V4);
        memcpy(&ip_2_ip4(ip)->addr, addr->ip, 4);
    } else {
        IP_SET_TYPE_VAL(*ip, IPADDR_TYPE_V6);
        memcpy(ip_2_ip6(ip)->addr, addr->ip, 16);
    }
}

void routes_clear(void)
{
    free(routes);
    routes = NULL;
    route_count = route_room = 0;
    narrowest = 0;
}

static int bits_agree(const void *one, const void *other, int bits)
{
    const u8_t *a = one, *b = other;
    int left = bits % 8, whole = bits / 8;
    return memcmp(a, b, (size_t)whole) == 0
           && (!left || !((a[whole] ^ b[whole]) & 0xff << (8 - left) & 0xff));
}

static const void *bytes_of(const ip_addr_t *ip)
{
    return IP_IS_V6(ip) ? (const void *)ip_2_ip6(ip)->addr : (const void *)&ip_2_ip4(ip)->addr;
}

/* The route with the longest prefix, through `it` only unless that is NULL. */
static const struct route *find(int v6, const void *dest, const struct iface *it)
{
    const struct route *best = NULL;
    for (size_t i = 0; i < route_count; i++) {
        const struct route *r = &routes[i];
        if (IP_IS_V6_VAL(r->net) == v6 && (best == NULL || r->prefix > best->prefix)
            && (it == NULL ? iface_of(r->netif)->up : iface_of(r->netif) == it)
            && bits_agree(bytes_of(&r->net), dest, r->prefix))
            best = r;
    }
    return best;
}

static int prefix_of(u32_t mask)
{
    return __builtin_popcount(mask);
}

/* The netif that has `dest` in its network, by the longest prefix, which is the result; of
 * `it` only unless that is NULL. */
static int neighbour4(const ip4_addr_t *dest, const struct iface *it, struct netif **found)
{
    struct netif *netif;
    int longest = -1;
    *found = NULL;
    NETIF_FOREACH(netif) {
        int prefix;
        if (!netif_is_up(netif) || ip4_addr_isany_val(*netif_ip4_addr(netif))
            || (it != NULL && iface_of(netif) != it))
            continue;
        /* fib_sync_down_dev(): an address of an interface that is down is local all the same. */
        if (ip4_addr_cmp(dest, netif_ip4_addr(netif))) {
            *found = netif;
            return 32;
        }
        if (!netif_is_link_up(netif)
            || !ip4_addr_netcmp(dest, netif_ip4_addr(netif), netif_ip4_netmask(netif)))
            continue;
        prefix = prefix_of(netif_ip4_netmask(netif)->addr);
        /* Of two equal ones, that which was there first. */
        if (prefix >= longest) {
            longest = prefix;
            *found = netif;
        }
    }
    return longest;
}

static struct netif *way4(const ip4_addr_t *dest, const struct iface *it)
{
    const struct route *route;
    struct netif *netif;
    int prefix = neighbour4(dest, it, &netif);
    if (route_count == 0 || prefix == 32)
        route = NULL;
    else
        route = find(0, &dest->addr, it);
    return route != NULL && route->prefix > prefix ? route->netif : netif;
}

/* Interposed. */
__attribute__((visibility("default")))
struct netif *ip4_route(const ip4_addr_t *dest)
{
    struct netif *netif = way4(dest, NULL);
    /* ip_route_output_key_hash_rcu(): these need no route, nor an address. */
    if (netif == NULL && (dest->addr == IPADDR_BROADCAST || ip4_addr_ismulticast(dest)))
        return nets_first();
    return netif;
}

static struct netif *with_zone(u8_t zone)
{
    struct netif *netif = netif_get_by_index(zone);
    return netif != NULL && netif_is_link_up(netif) ? netif : NULL;
}

/* Interposed. */
__attribute__((visibility("default")))
struct netif *ip6_route(const ip6_addr_t *src, const ip6_addr_t *dest)
{
    const struct route *route;
    struct netif *netif;
    ip_addr_t ip;
    if (ip6_addr_isloopback(dest))
        return nets_loopback();
    if (ip6_addr_has_scope(dest, IP6_UNKNOWN)) {
        if (ip6_addr_has_zone(dest))
            return with_zone(ip6_addr_zone(dest));
        if (ip6_addr_has_zone(src))
            return with_zone(ip6_addr_zone(src));
    }
    ip_addr_copy_from_ip6(ip, *dest);
    if ((netif = nets_of_address(&ip)) != NULL)
        return netif;
    if ((route = find(1, dest->addr, NULL)) != NULL)
        return route->netif;
    if ((netif = discovery_route(dest)) != NULL)
        return netif;
    return ip6_addr_ismulticast(dest) || ip6_addr_islinklocal(dest) ? nets_first() : NULL;
}

/* Whether a socket that is bound to a device, and so takes the interface's first netif, or a
 * reply to where a packet came from, has to go elsewhere than that netif says. */
static err_t output4_otherwise(struct netif *netif, struct pbuf *p, const ip4_addr_t *dest)
{
    struct iface *it = iface_of(netif);
    const ip4_addr_t *hop = dest;
    const struct route *route;
    struct netif *near;
    int prefix = neighbour4(dest, it, &near);
    if (prefix == 32)
        return stats_loop_copy(near, p);
    if (!it->ethernet)
        return link_send(it, p);
    route = find(0, &dest->addr, it);
    if (route != NULL && route->prefix > prefix) {
        near = route->netif;
        if (!ip_addr_isany(&route->via))
            hop = ip_2_ip4(&route->via);
    }
    if (near == NULL)
        near = netif;
    /* etharp_output() would look for a gateway where this is no neighbour. */
    if (ip4_addr_isbroadcast(hop, near)
        || ip4_addr_netcmp(hop, netif_ip4_addr(near), netif_ip4_netmask(near)))
        return etharp_output(near, p, hop);
    return etharp_query(near, hop, p);
}

/* Whether the netif is all of its interface, and no route can lead round its own network. */
static int is_direct(const struct netif *netif, const ip4_addr_t *dest)
{
    return iface_of(netif)->lone && narrowest <= lwip_ntohl(netif_ip4_netmask(netif)->addr)
           && ip4_addr_netcmp(dest, netif_ip4_addr(netif), netif_ip4_netmask(netif));
}

err_t route_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *dest)
{
    struct iface *it = iface_of(netif);
    /* RFC 1122, section 3.2.1.7: a time to live of 0 keeps a multicast on the host. */
    if (((const u8_t *)p->payload)[8] == 0)
        return ERR_OK;
    stats_sent(p);
    if (!it->ethernet && it->lone)
        return link_send(it, p);
    if (!ip4_addr_ismulticast(dest) && dest->addr != IPADDR_BROADCAST && !is_direct(netif, dest))
        return output4_otherwise(netif, p, dest);
    return it->ethernet ? etharp_output(netif, p, dest) : link_send(it, p);
}

/* lwIP finds next hops in its cache of destinations, where it keeps the MTU of the path too. */
static void cache_hop(struct netif *netif, const ip6_addr_t *dest, const ip6_addr_t *hop)
{
    struct nd6_destination_cache_entry *entry = NULL;
    for (int i = 0; i < LWIP_ND6_NUM_DESTINATIONS; i++) {
        struct nd6_destination_cache_entry *it = &destination_cache[i];
        if (ip6_addr_cmp(&it->destination_addr, dest)) {
            if (ip6_addr_cmp(&it->next_hop_addr, hop))
                return;
            entry = it;
            break;
        }
        if (entry == NULL || ip6_addr_isany(&it->destination_addr)
            || (!ip6_addr_isany(&entry->destination_addr) && it->age > entry->age))
            entry = it;
    }
    ip6_addr_set(&entry->destination_addr, dest);
    ip6_addr_set(&entry->next_hop_addr, hop);
    entry->pmtu = netif_mtu6(netif);
    entry->age = 0;
}

err_t route_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *dest)
{
    const struct route *route;
    const ip6_addr_t *router;
    err_t err;
    if (((const u8_t *)p->payload)[7] == 0)
        return ERR_OK;
    stats_sent(p);
    if (!(netif->flags & NETIF_FLAG_ETHERNET))
        return link_send(iface_of(netif), p);
    if (!ip6_addr_ismulticast(dest) && !ip6_addr_has_scope(dest, IP6_UNICAST)) {
        if ((route = find(1, dest->addr, iface_of(netif))) != NULL)
            cache_hop(netif, dest, ip_addr_isany(&route->via) ? dest : ip_2_ip6(&route->via));
        else if ((router = discovery_choose(netif, dest)) != NULL)
            cache_hop(netif, dest, router);
    }
    err = ethip6_output(netif, p, dest);
    if (!ip6_addr_ismulticast(dest))
        discovery_sent();
    return err;
}

static void find_narrowest(void)
{
    narrowest = 0;
    for (size_t i = 0; i < route_count; i++)
        if (!IP_IS_V6_VAL(routes[i].net) && routes[i].prefix > 0)
            narrowest = LWIP_MAX(narrowest, 0xffffffffu << (32 - routes[i].prefix));
}

static int add(const ip_addr_t *net, int prefix, const ip_addr_t *via, struct netif *netif,
               int subnet)
{
    struct route *route;
    if (route_count == route_room) {
        size_t room = route_room ? route_room * 2 : 8;
        struct route *more = realloc(routes, room * sizeof *routes);
        if (more == NULL)
            return -ENOMEM;
        routes = more;
        route_room = room;
    }
    route = &routes[route_count++];
    memset(route, 0, sizeof *route);
    ip_addr_copy(route->net, *net);
    if (via != NULL)
        ip_addr_copy(route->via, *via);
    else
        IP_SET_TYPE_VAL(route->via, IP_GET_TYPE(net));
    route->prefix = prefix;
    route->netif = netif;
    route->subnet = subnet;
    find_narrowest();
    nd6_clear_destination_cache();
    return 0;
}

static void forget(size_t index)
{
    route_count--;
    memmove(&routes[index], &routes[index + 1], (route_count - index) * sizeof *routes);
    find_narrowest();
    nd6_clear_destination_cache();
}

int route_add_subnet(const struct vp_addr *addr, int prefix, struct netif *netif)
{
    ip_addr_t net;
    route_address(addr, &net);
    return ip6_addr_islinklocal(ip_2_ip6(&net)) ? 0 : add(&net, prefix, NULL, netif, 1);
}

/* fib_del_ifaddr(): an address takes the way to its network with it, and routes whose
 * gateway is no neighbour any more. */
void route_forget_address(const ip_addr_t *ip, const struct netif *netif)
{
    for (size_t i = route_count; i-- > 0;) {
        const struct route *r = &routes[i];
        if (r->netif != netif || IP_GET_TYPE(&r->net) != IP_GET_TYPE(ip))
            continue;
        if (IP_IS_V6(ip)) {
            if (r->subnet && ip6_addr_cmp_zoneless(ip_2_ip6(&r->net), ip_2_ip6(ip)))
                forget(i);
        } else {
            forget(i);
        }
    }
}

static void forget_of(const struct iface *it, int all)
{
    for (size_t i = route_count; i-- > 0;)
        if (iface_of(routes[i].netif) == it && (all || !routes[i].subnet))
            forget(i);
}

void routes_forget_static(const struct iface *it)
{
    forget_of(it, 0);
}

void routes_forget(const struct iface *it)
{
    forget_of(it, 1);
}

/* What a packet of a socket goes out by, 0 or a negative errno.  `device`: the interface that
 * it is bound to, or 0; `local`: its own address, or any. */
int route_choose(u32_t device, const ip_addr_t *local, const ip_addr_t *to, struct netif **netif)
{
    const struct iface *it = iface_by_index(device);
    const ip4_addr_t *to4 = ip_2_ip4(to);
    *netif = NULL;
    if (!device) {
        /* ip_route_output_key_hash_rcu(): where the source is, whatever the routes say. */
        if (IP_IS_V4(to) && IP_IS_V4(local)
            && (to4->addr == IPADDR_BROADCAST || ip4_addr_ismulticast(to4)))
            *netif = nets_of_address(local);
        if (*netif == NULL || *netif == nets_loopback())
            *netif = ip_route(local, to);
        return *netif != NULL ? 0 : -ENETUNREACH;
    }
    if (device == netif_get_index(nets_loopback())) {
        *netif = ip_route(local, to) == nets_loopback() ? nets_loopback() : NULL;
        return *netif != NULL ? 0 : -ENETUNREACH;
    }
    if (it == NULL)
        return -ENODEV;
    if (!it->up)
        return -ENETUNREACH;
    /* Without a route through the interface the other side is taken for a neighbour. */
    *netif = IP_IS_V4(to) ? way4(to4, it) : NULL;
    if (*netif == NULL)
        *netif = it->first;
    return 0;
}

/* The netif of `it`, or of any, that has the gateway for a neighbour, or NULL. */
static struct netif *to_gateway(ip_addr_t *via, const struct iface *it)
{
    const struct route *route;
    struct netif *netif;
    if (IP_IS_V4(via)) {
        int prefix = neighbour4(ip_2_ip4(via), it, &netif);
        return netif == nets_loopback() || prefix == 32 ? NULL : netif;
    }
    if (ip6_addr_islinklocal(ip_2_ip6(via))) {
        if (it == NULL)
            it = ifaces_only();
        if (it == NULL)
            return NULL;
        ip6_addr_assign_zone(ip_2_ip6(via), IP6_UNICAST, it->first);
        return it->first;
    }
    route = find(1, ip_2_ip6(via)->addr, it);
    return route != NULL && route->subnet ? route->netif : NULL;
}

static size_t same(const ip_addr_t *net, int prefix)
{
    size_t i = 0;
    while (i < route_count && (routes[i].subnet || routes[i].prefix != prefix
                               || IP_GET_TYPE(&routes[i].net) != IP_GET_TYPE(net)
                               || !bits_agree(bytes_of(&routes[i].net), bytes_of(net), prefix)))
        i++;
    return i;
}

static int add_static(const struct vp_addr *dest, int prefix, const struct vp_addr *gateway,
                      const struct iface *it)
{
    ip_addr_t net, via;
    struct netif *netif;
    route_address(dest, &net);
    if (same(&net, prefix) < route_count)
        return -EEXIST;
    if (!gateway->family) {
        netif = it != NULL ? it->first : nets_first();
    } else {
        route_address(gateway, &via);
        netif = to_gateway(&via, it);
    }
    if (netif == NULL)
        return -ENETUNREACH;
    if (!iface_of(netif)->up)
        return -ENETDOWN;
    return add(&net, prefix, gateway->family ? &via : NULL, netif, 0);
}

int vp_add_route(uint32_t index, const struct vp_addr *dest, int prefix,
                 const struct vp_addr *gateway)
{
    const struct iface *it;
    int result;
    core_enter();
    it = iface_by_index(index);
    if (!core_is_open())
        result = -ENETDOWN;
    else if (index && it == NULL)
        result = -ENODEV;
    else
        result = add_static(dest, prefix, gateway, it);
    core_leave();
    return result;
}

int vp_del_route(uint32_t index, const struct vp_addr *dest, int prefix,
                 const struct vp_addr *gateway)
{
    ip_addr_t net, via;
    int result = -ESRCH;
    size_t at;
    core_enter();
    route_address(dest, &net);
    if (gateway->family)
        route_address(gateway, &via);
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if ((at = same(&net, prefix)) < route_count
               && (!index || iface_of(routes[at].netif) == iface_by_index(index))
               && (!gateway->family
                   || bits_agree(bytes_of(&routes[at].via), bytes_of(&via),
                                 IP_IS_V6_VAL(via) ? 128 : 32))) {
        forget(at);
        result = 0;
    }
    core_leave();
    return result;
}
