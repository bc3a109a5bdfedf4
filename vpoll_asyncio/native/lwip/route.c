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

/* The route with the longest prefix, through `netif` only unless that is NULL. */
static const struct route *find(int v6, const void *dest, const struct netif *netif)
{
    const struct route *best = NULL;
    for (size_t i = 0; i < route_count; i++) {
        const struct route *r = &routes[i];
        if (IP_IS_V6_VAL(r->net) == v6 && (best == NULL || r->prefix > best->prefix)
            && (netif == NULL || r->netif == netif)
            && bits_agree(bytes_of(&r->net), dest, r->prefix))
            best = r;
    }
    return best;
}

static int prefix_of(u32_t mask)
{
    return __builtin_popcount(mask);
}

/* The netif that has `dest` in its network, by the longest prefix, which is the result. */
static int neighbour4(const ip4_addr_t *dest, struct netif **found)
{
    struct netif *netif;
    int longest = -1;
    *found = NULL;
    NETIF_FOREACH(netif) {
        int prefix;
        if (!netif_is_up(netif) || ip4_addr_isany_val(*netif_ip4_addr(netif)))
            continue;
        if (ip4_addr_cmp(dest, netif_ip4_addr(netif))) {
            *found = netif;
            return 32;
        }
        if (!ip4_addr_netcmp(dest, netif_ip4_addr(netif), netif_ip4_netmask(netif)))
            continue;
        prefix = prefix_of(netif_ip4_netmask(netif)->addr);
        if (prefix > longest) {
            longest = prefix;
            *found = netif;
        }
    }
    return longest;
}

/* Interposed. */
__attribute__((visibility("default")))
struct netif *ip4_route(const ip4_addr_t *dest)
{
    const struct route *route;
    struct netif *netif;
    int prefix = neighbour4(dest, &netif);
    if (route_count == 0 || prefix == 32)
        route = NULL;
    else
        route = find(0, &dest->addr, NULL);
    if (route != NULL && route->prefix > prefix)
        return route->netif;
    /* ip_route_output_key_hash_rcu(): these need no route, nor an address. */
    if (netif == NULL && (dest->addr == IPADDR_BROADCAST || ip4_addr_ismulticast(dest)))
        return nets_first();
    return netif;
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
            return netif_get_by_index(ip6_addr_zone(dest));
        if (ip6_addr_has_zone(src))
            return netif_get_by_index(ip6_addr_zone(src));
    }
    ip_addr_copy_from_ip6(ip, *dest);
    if ((netif = nets_of_address(&ip)) != NULL)
        return netif;
    if ((route = find(1, dest->addr, NULL)) != NULL)
        return route->netif;
    if ((netif = nd6_find_route(dest)) != NULL)
        return netif;
    return ip6_addr_ismulticast(dest) || ip6_addr_islinklocal(dest) ? nets_first() : NULL;
}

err_t route_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *dest)
{
    const struct route *route;
    const ip4_addr_t *hop = dest;
    if (!(netif->flags & NETIF_FLAG_ETHARP))
        return link_send(p);
    if (route_count == 0 || ip4_addr_ismulticast(dest) || ip4_addr_isbroadcast(dest, netif)
        || ip4_addr_netcmp(dest, netif_ip4_addr(netif), netif_ip4_netmask(netif)))
        return etharp_output(netif, p, dest);
    if ((route = find(0, &dest->addr, netif)) != NULL && !ip_addr_isany(&route->via))
        hop = ip_2_ip4(&route->via);
    /* etharp_output() would look for a gateway where this is no neighbour. */
    if (ip4_addr_netcmp(hop, netif_ip4_addr(netif), netif_ip4_netmask(netif)))
        return etharp_output(netif, p, hop);
    return etharp_query(netif, hop, p);
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
    if (!(netif->flags & NETIF_FLAG_ETHERNET))
        return link_send(p);
    if (!ip6_addr_ismulticast(dest) && !ip6_addr_has_scope(dest, IP6_UNICAST)
        && (route = find(1, dest->addr, netif)) != NULL)
        cache_hop(netif, dest, ip_addr_isany(&route->via) ? dest : ip_2_ip6(&route->via));
    return ethip6_output(netif, p, dest);
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
    nd6_clear_destination_cache();
    return 0;
}

static void forget(size_t index)
{
    route_count--;
    memmove(&routes[index], &routes[index + 1], (route_count - index) * sizeof *routes);
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

/* The netif that has the gateway for a neighbour, or NULL. */
static struct netif *to_gateway(ip_addr_t *via)
{
    const struct route *route;
    struct netif *netif;
    if (IP_IS_V4(via)) {
        neighbour4(ip_2_ip4(via), &netif);
        return netif == nets_loopback() ? NULL : netif;
    }
    if (ip6_addr_islinklocal(ip_2_ip6(via))) {
        ip6_addr_assign_zone(ip_2_ip6(via), IP6_UNICAST, nets_first());
        return nets_first();
    }
    route = find(1, ip_2_ip6(via)->addr, NULL);
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

int vp_add_route(const struct vp_addr *dest, int prefix, const struct vp_addr *gateway)
{
    struct netif *netif = nets_first();
    ip_addr_t net, via;
    int result = 0;
    core_enter();
    route_address(dest, &net);
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if (same(&net, prefix) < route_count) {
        result = -EEXIST;
    } else {
        if (gateway->family) {
            route_address(gateway, &via);
            netif = to_gateway(&via);
        }
        result = netif == NULL
                     ? -ENETUNREACH
                     : add(&net, prefix, gateway->family ? &via : NULL, netif, 0);
    }
    core_leave();
    return result;
}

int vp_del_route(const struct vp_addr *dest, int prefix, const struct vp_addr *gateway)
{
    ip_addr_t net, via;
    int result = -ESRCH;
    size_t index;
    core_enter();
    route_address(dest, &net);
    if (gateway->family)
        route_address(gateway, &via);
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if ((index = same(&net, prefix)) < route_count
               && (!gateway->family
                   || bits_agree(bytes_of(&routes[index].via), bytes_of(&via),
                                 IP_IS_V6_VAL(via) ? 128 : 32))) {
        forget(index);
        result = 0;
    }
    core_leave();
    return result;
}
