/* The interface that a socket keeps to: SO_BINDTODEVICE, and the scope of link-local addresses. */

#include "shim.h"

static int is_link_local(const ip_addr_t *ip)
{
    return IP_IS_V6(ip) && ip6_addr_has_scope(ip_2_ip6(ip), IP6_UNICAST);
}

/* The netif that a scope names, or NULL.  One that is left out means the socket's interface;
 * else of a link-local host the one interface there is, and of a group the first, as in the
 * kernel's table of routes. */
struct netif *scope_find(const struct sock *s, const ip6_addr_t *ip, u32_t scope)
{
    if (scope || s->device)
        return nets_by_index(scope ? scope : s->device);
    if (ip6_addr_ismulticast(ip))
        return nets_first();
    return ifaces_only() != NULL ? ifaces_only()->first : NULL;
}

/* __inet6_bind(), tcp_v6_connect(), __ip6_datagram_connect(): who has a link-local address at
 * either end is bound to its interface from then on. */
void scope_keep(struct sock *s, const ip_addr_t *ip)
{
    if (!is_link_local(ip))
        return;
    s->device = ip6_addr_zone(ip_2_ip6(ip));
    if (s->stream)
        stream_apply(s);
    else
        dgram_apply(s);
}

/* Whether an address to connect to is of another interface than the socket's. */
int scope_is_left(const struct sock *s, const ip_addr_t *ip)
{
    return s->device && is_link_local(ip) && s->device != ip6_addr_zone(ip_2_ip6(ip));
}

/* The interface that a datagram has to leave by, or 0: udpv6_sendmsg(). */
u32_t scope_device(const struct sock *s, const ip_addr_t *to)
{
    return is_link_local(to) && ip6_addr_has_zone(ip_2_ip6(to)) ? ip6_addr_zone(ip_2_ip6(to))
                                                                : s->device;
}
