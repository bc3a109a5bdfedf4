/* Multicast: membership of groups, and who hears what is sent to them.
 *
 * lwIP counts the users of a group on an interface in a byte and knows no sockets, so each
 * socket has a list here, and lwIP is told of the first that joins and of the last that
 * leaves. */

#include "shim.h"
#include "lwip/igmp.h"
#include "lwip/mld6.h"

/* net.ipv4.igmp_max_memberships; IPv6 has no such limit, but memory has. */
enum { MOST_GROUPS = 20, MOST_GROUPS6 = 4096 };

struct member {
    struct member *next;
    ip_addr_t group;
    ip_addr_t by;               /* the address that named the interface, or any */
    uint8_t index;
};

static int is_group(const struct member *m, const ip_addr_t *group, unsigned index)
{
    if ((index && m->index != index) || IP_GET_TYPE(&m->group) != IP_GET_TYPE(group))
        return 0;
    return IP_IS_V6(group) ? ip6_addr_cmp_zoneless(ip_2_ip6(&m->group), ip_2_ip6(group))
                           : ip_addr_cmp(&m->group, group);
}

static int is_used(const ip_addr_t *group, unsigned index)
{
    size_t cursor = 0;
    struct sock *s;
    while ((s = sock_each(&cursor)) != NULL)
        for (const struct member *m = s->members; m != NULL; m = m->next)
            if (is_group(m, group, index))
                return 1;
    return 0;
}

/* The netif of an interface that frames come in through; further addresses have further ones. */
static struct netif *main_of(struct netif *netif)
{
    return netif == NULL || iface_of(netif) == NULL ? netif : iface_of(netif)->first;
}

/* ip_mc_find_dev(), and __ipv6_sock_mc_join(): by number, by address, or by the route. */
static struct netif *find(const ip_addr_t *group, unsigned index, const ip_addr_t *by)
{
    struct netif *netif;
    if (index)
        netif = nets_by_index(index);
    else if (!ip_addr_isany(by))
        netif = nets_of_address(by);
    else
        netif = ip_route(IP_IS_V6(group) ? IP6_ADDR_ANY : IP4_ADDR_ANY, group);
    return main_of(netif);
}

static err_t tell(struct netif *netif, const ip_addr_t *group, int join)
{
    if (IP_IS_V6(group))
        return join ? mld6_joingroup_netif(netif, ip_2_ip6(group))
                    : mld6_leavegroup_netif(netif, ip_2_ip6(group));
    return join ? igmp_joingroup_netif(netif, ip_2_ip4(group))
                : igmp_leavegroup_netif(netif, ip_2_ip4(group));
}

static int join(struct sock *s, const ip_addr_t *group, unsigned index, const ip_addr_t *by)
{
    struct netif *netif = find(group, index, by);
    int count = 0, most = IP_IS_V6(group) ? MOST_GROUPS6 : MOST_GROUPS;
    struct member *m;
    if (netif == NULL)
        return -ENODEV;
    index = netif_get_index(netif);
    for (m = s->members; m != NULL; m = m->next) {
        if (is_group(m, group, index))
            return -EADDRINUSE;
        count += IP_GET_TYPE(&m->group) == IP_GET_TYPE(group);
    }
    if (count >= most)
        return -ENOBUFS;
    if ((m = calloc(1, sizeof *m)) == NULL)
        return -ENOMEM;
    if (!is_used(group, index) && tell(netif, group, 1) != ERR_OK) {
        free(m);
        return -ENOBUFS;
    }
    ip_addr_copy(m->group, *group);
    ip_addr_copy(m->by, *by);
    m->index = (uint8_t)index;
    m->next = s->members;
    s->members = m;
    return 0;
}

static void drop(struct sock *s, struct member **at)
{
    struct member *m = *at;
    struct netif *netif = nets_by_index(m->index);
    *at = m->next;
    if (core_is_open() && s->state != S_DEAD && netif != NULL && !is_used(&m->group, m->index))
        tell(netif, &m->group, 0);
    free(m);
}

/* ip_mc_leave_group(), ipv6_sock_mc_drop(). */
static int leave(struct sock *s, const ip_addr_t *group, unsigned index, const ip_addr_t *by)
{
    if (!index && ip_addr_isany(by) && find(group, 0, by) == NULL)
        return -ENODEV;
    for (struct member **at = &s->members; *at != NULL; at = &(*at)->next)
        if (is_group(*at, group, index)
            && (index || ip_addr_isany(by) || ip_addr_cmp(by, &(*at)->by))) {
            drop(s, at);
            return 0;
        }
    return -EADDRNOTAVAIL;
}

static int change(struct sock *s, int joins, const ip_addr_t *group, unsigned index,
                  const ip_addr_t *by)
{
    /* do_ip_setsockopt() */
    if (IP_IS_V6(group) && !s->v6)
        return -ENOPROTOOPT;
    if (s->stream)
        return -EPROTO;
    if (!ip_addr_ismulticast(group))
        return -EINVAL;
    if (s->state == S_DEAD)
        return -ENETDOWN;
    return joins ? join(s, group, index, by) : leave(s, group, index, by);
}

void mcast_leave_all(struct sock *s)
{
    while (s->members != NULL)
        drop(s, &s->members);
}

/* The interface is about to go; its number may be given to another. */
void mcast_forget(const struct iface *it)
{
    size_t cursor = 0;
    struct sock *s;
    while ((s = sock_each(&cursor)) != NULL)
        for (struct member **at = &s->members; *at != NULL;)
            if ((*at)->index == iface_index(it))
                drop(s, at);
            else
                at = &(*at)->next;
}

/* IP_MULTICAST_IF, IPV6_MULTICAST_IF: the interface by number or by address, or neither. */
static int choose(struct sock *s, unsigned index, const ip_addr_t *by)
{
    struct netif *netif = NULL;
    if (index)
        netif = nets_by_index(index);
    else if (!ip_addr_isany(by))
        netif = nets_of_address(by);
    if (netif == NULL && (index || !ip_addr_isany(by)))
        return IP_IS_V6(by) ? -ENODEV : -EADDRNOTAVAIL;
    s->mc_index = netif != NULL ? netif_get_index(main_of(netif)) : 0;
    s->mc_address = IP_IS_V6(by) ? 0 : ip_2_ip4(by)->addr;
    return 0;
}

/* What a packet of the socket goes out by, as route_choose() has it.  To a group that is what
 * the socket names, else what its address is of (ip_route_output_key_hash_rcu()). */
int mcast_route(const struct sock *s, const ip_addr_t *local, const ip_addr_t *to,
                struct netif **netif)
{
    unsigned index = s->mc_index ? s->mc_index : s->device;
    if (!ip_addr_ismulticast(to))
        return route_choose(scope_device(s, to), local, to, netif);
    *netif = NULL;
    if (index)
        *netif = nets_by_index(index);
    else if (IP_IS_V4(to) && IP_IS_V4(local))
        *netif = main_of(nets_of_address(local));
    if (index && *netif == NULL)
        return -ENODEV;
    if (*netif == NULL)
        *netif = ip_route(local, to);
    return *netif != NULL && netif_is_link_up(*netif) ? 0 : -ENETUNREACH;
}

/* ip_mc_sf_allow(), inet6_mc_check(): unless IP_MULTICAST_ALL is off, what anybody here has
 * joined is for everybody whose name it has. */
int mcast_hears(const struct sock *s, const ip_addr_t *dest, const struct netif *in)
{
    if ((IP_IS_V6(dest) ? s->mc_all6 : s->mc_all) || !ip_addr_ismulticast(dest))
        return 1;
    for (const struct member *m = s->members; m != NULL; m = m->next)
        if (is_group(m, dest, netif_get_index(in)))
            return 1;
    return 0;
}

int vp_group(uint64_t handle, int joins, const struct vp_addr *group, const struct vp_addr *by)
{
    int result = -EBADF;
    struct sock *s;
    core_enter();
    if ((s = sock_find(handle)) != NULL) {
        ip_addr_t address, via;
        route_address(group, &address);
        route_address(by, &via);
        if (!core_is_open())
            result = -ENETDOWN;
        else
            result = change(s, joins, &address, by->scope, &via);
        sock_touch(s, 0);
    }
    core_leave();
    return result;
}

int vp_group_interface(uint64_t handle, const struct vp_addr *by)
{
    int result = -EBADF;
    struct sock *s;
    core_enter();
    if ((s = sock_find(handle)) != NULL) {
        ip_addr_t via;
        route_address(by, &via);
        if (by->family == 6 && !s->v6)
            result = -ENOPROTOOPT;
        else if (s->stream)
            result = by->family == 4 ? -EINVAL : -ENOPROTOOPT;
        else
            result = choose(s, by->scope, &via);
    }
    core_leave();
    return result;
}
