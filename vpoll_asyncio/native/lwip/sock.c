/* The calls that Python makes on sockets, whatever their kind, and their addresses. */

#include "shim.h"

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* The address as the protocol blocks want it; a mapped one becomes IPv4. */
int sock_to_ip(const struct sock *s, const struct vp_addr *addr, ip_addr_t *ip)
{
    memset(ip, 0, sizeof *ip);
    if (addr->port > 0xffff)
        return -EINVAL;
    if (!s->v6) {
        if (addr->family != 4)
            return -EAFNOSUPPORT;
        IP_SET_TYPE_VAL(*ip, IPADDR_TYPE_V4);
        memcpy(&ip_2_ip4(ip)->addr, addr->ip, 4);
        return 0;
    }
    if (addr->family != 6)
        return -EAFNOSUPPORT;
    if (memcmp(addr->ip, mapped, 12) == 0) {
        if (s->v6only)
            return -ENETUNREACH;
        IP_SET_TYPE_VAL(*ip, IPADDR_TYPE_V4);
        memcpy(&ip_2_ip4(ip)->addr, addr->ip + 12, 4);
        return 0;
    }
    IP_SET_TYPE_VAL(*ip, IPADDR_TYPE_V6);
    memcpy(ip_2_ip6(ip)->addr, addr->ip, 16);
    if (ip6_addr_has_scope(ip_2_ip6(ip), IP6_UNKNOWN)) {
        struct netif *netif = scope_find(s, ip_2_ip6(ip), addr->scope);
        if (netif == NULL)
            return addr->scope ? -ENODEV : -EINVAL;
        ip6_addr_assign_zone(ip_2_ip6(ip), IP6_UNKNOWN, netif);
    }
    return 0;
}

void sock_from_ip(const struct sock *s, const ip_addr_t *ip, u16_t port, struct vp_addr *addr)
{
    memset(addr, 0, sizeof *addr);
    addr->port = port;
    addr->family = s->v6 ? 6 : 4;
    if (IP_IS_V6(ip)) {
        memcpy(addr->ip, ip_2_ip6(ip)->addr, 16);
        addr->scope = ip6_addr_zone(ip_2_ip6(ip));
    } else if (!s->v6) {
        memcpy(addr->ip, &ip_2_ip4(ip)->addr, 4);
    } else if (!IP_IS_ANY_TYPE_VAL(*ip) && !ip_addr_isany(ip)) {
        memcpy(addr->ip, mapped, 12);
        memcpy(addr->ip + 12, &ip_2_ip4(ip)->addr, 4);
    }
}

/* Whether the socket itself has an IPv4 address, which one of AF_INET6 can have too. */
static int at_v4(const struct sock *s)
{
    return IP_IS_V4_VAL(s->local) && !ip_addr_isany(&s->local);
}

/* "Any" as a destination is this host: tcp_v6_connect(), ip_route_output_key_hash_rcu(). */
static void any_is_here(const struct sock *s, ip_addr_t *ip)
{
    if (!ip_addr_isany(ip))
        return;
    if (IP_IS_V4(ip) && at_v4(s))
        ip_addr_copy(*ip, s->local);
    else if (IP_IS_V4(ip) || at_v4(s))
        IP_ADDR4(ip, 127, 0, 0, 1);
    else
        ip_2_ip6(ip)->addr[3] = PP_HTONL(1);
}

int sock_same_ip(const ip_addr_t *one, const ip_addr_t *other)
{
    if (IP_GET_TYPE(one) != IP_GET_TYPE(other))
        return 0;
    return IP_IS_V6(one) ? ip6_addr_cmp_zoneless(ip_2_ip6(one), ip_2_ip6(other))
                         : ip4_addr_cmp(ip_2_ip4(one), ip_2_ip4(other));
}

int sock_check_target(const struct sock *s, const ip_addr_t *ip)
{
    /* ip6_dst_lookup_tail() */
    if (IP_IS_V6(ip) && at_v4(s))
        return -EAFNOSUPPORT;
    /* ip_mkroute_output(): what has a loopback address does not leave the host. */
    if (ip_addr_isloopback(&s->local) && !nets_own_address(ip)
        && !(IP_IS_V4(ip) && ip_addr_ismulticast(ip)))
        return -EINVAL;
    return 0;
}

static int create(struct sock *s, int kind, int protocol)
{
    switch (kind) {
    case VP_STREAM: return stream_create(s);
    case VP_RAW: return rawsock_create(s, P_RAW, protocol);
    case VP_PING: return rawsock_create(s, P_PING, protocol);
    default: return dgram_create(s);
    }
}

static void close_sock(struct sock *s)
{
    if (s->stream)
        stream_close(s);
    else if (s->packet)
        rawsock_close(s);
    else
        dgram_close(s);
}

void sock_close_all(void)
{
    size_t cursor = 0;
    struct sock *s;
    while ((s = sock_each(&cursor)) != NULL) {
        /* The listener closes what nobody has accepted. */
        if (s->listener != NULL)
            continue;
        close_sock(s);
        sock_free(s);
    }
}

int64_t vp_socket(int family, int kind, int protocol)
{
    struct sock *s = NULL;
    int64_t result = -ENOMEM;
    core_enter();
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if ((s = sock_new(family == 6, kind == VP_STREAM)) != NULL) {
        if (create(s, kind, protocol) < 0) {
            sock_free(s);
        } else {
            s->reported = sock_mask(s);
            result = (int64_t)s->handle;
        }
    }
    core_leave();
    return result;
}

int vp_sock_close(uint64_t handle)
{
    struct sock *s;
    int result = 0;
    core_enter();
    if ((s = sock_find(handle)) == NULL) {
        result = -EBADF;
    } else {
        close_sock(s);
        sock_free(s);
    }
    core_leave();
    return result;
}

/* The frame of every call on a socket: lock, find, work, note the new mask, unlock. */
#define ON_SOCKET(type, handle, work)                   \
    type result = -EBADF;                               \
    struct sock *s;                                     \
    core_enter();                                       \
    if ((s = sock_find(handle)) != NULL) {              \
        work                                            \
        sock_touch(s, 0);                               \
    }                                                   \
    core_leave();                                       \
    return result;

int vp_bind(uint64_t handle, const struct vp_addr *addr)
{
    ON_SOCKET(int, handle, {
        ip_addr_t ip;
        if ((result = sock_to_ip(s, addr, &ip)) == 0) {
            int native = IP_IS_V6(&ip) && !ip_addr_isany(&ip);
            int shared = nets_is_broadcast(&ip) || ip_addr_ismulticast(&ip);
            if (!ip_addr_isany(&ip) && !nets_own_address(&ip)
                && !(!s->stream && s->packet != P_PING && shared))
                result = -EADDRNOTAVAIL;
            else if (s->stream)
                result = stream_bind(s, &ip, (u16_t)addr->port);
            else if (s->packet)
                result = rawsock_bind(s, &ip, (u16_t)addr->port);
            else
                result = dgram_bind(s, &ip, (u16_t)addr->port);
            /* __inet6_bind(): who has an IPv6 address speaks no IPv4. */
            if (result == 0 && native)
                s->v6only = 1;
            if (result == 0)
                scope_keep(s, &ip);
        } else if (result == -ENETUNREACH) {
            result = -EINVAL;
        }
    })
}

int vp_listen(uint64_t handle, int backlog)
{
    ON_SOCKET(int, handle, { result = s->stream ? stream_listen(s, backlog) : -EOPNOTSUPP; })
}

int64_t vp_accept(uint64_t handle, struct vp_addr *peer, uint32_t *mask)
{
    ON_SOCKET(int64_t, handle, {
        struct sock *child = NULL;
        int error = EOPNOTSUPP;
        if (s->stream)
            child = stream_accept(s, &error);
        if (child == NULL) {
            result = -error;
        } else {
            sock_from_ip(child, &child->remote, child->remote_port, peer);
            *mask = child->reported = sock_mask(child);
            result = (int64_t)child->handle;
        }
    })
}

static int autobind(struct sock *s)
{
    if (s->stream)
        return 0;
    return s->packet ? rawsock_autobind(s) : dgram_autobind(s);
}

static int64_t send_datagram(struct sock *s, const char *data, size_t size, const ip_addr_t *to,
                             u16_t port)
{
    return s->packet ? rawsock_send(s, data, size, to, port) : dgram_send(s, data, size, to, port);
}

int vp_connect(uint64_t handle, const struct vp_addr *addr)
{
    ON_SOCKET(int, handle, {
        ip_addr_t ip;
        result = autobind(s);
        if (result == 0 && (result = sock_to_ip(s, addr, &ip)) == 0) {
            any_is_here(s, &ip);
            if (scope_is_left(s, &ip))
                result = -EINVAL;
            else if (s->stream)
                result = stream_connect(s, &ip, (u16_t)addr->port);
            else if (s->packet)
                result = rawsock_connect(s, &ip, (u16_t)addr->port);
            else
                result = dgram_connect(s, &ip, (u16_t)addr->port);
            if (result == 0 || result == -EINPROGRESS)
                scope_keep(s, &ip);
            if (result == -ENETUNREACH)
                stats_no_route(IP_IS_V6(&ip));
        }
    })
}

/* How the attempt to connect ended, for who waited for it. */
int vp_finish_connect(uint64_t handle)
{
    ON_SOCKET(int, handle, {
        if (!s->stream || (s->state == S_CONNECTED && s->told))
            result = 0;
        else if (s->state == S_NEW)
            result = -ECONNABORTED;
        else
            result = stream_connect(s, &s->remote, s->remote_port);
    })
}

int vp_shutdown(uint64_t handle, int how)
{
    ON_SOCKET(int, handle, {
        if (how < 0 || how > 2)
            result = -EINVAL;
        else
            result = s->stream ? stream_shutdown(s, how) : dgram_shutdown(s, how);
    })
}

int64_t vp_recv(uint64_t handle, char *out, size_t size, int flags, struct vp_addr *from)
{
    ON_SOCKET(int64_t, handle, {
        memset(from, 0, sizeof *from);
        result = s->stream ? stream_recv(s, out, size, flags)
                           : dgram_recv(s, out, size, flags, from);
    })
}

/* What data a stream has, in the low half; 0 for vp_recv() to say why there is none.  Where
 * the socket only lost events by it, the new mask is in the high half, with VP_LOST, and
 * Python shows it without collecting. */
int64_t vp_recv_some(uint64_t handle, char *out, size_t size)
{
    ON_SOCKET(int64_t, handle, {
        result = 0;
        if (s->stream && stream_has_data(s) && size > 0) {
            uint32_t mask;
            result = stream_recv(s, out, size, 0);
            mask = sock_mask(s);
            if (!s->dirty && mask != s->reported && !(mask & ~s->reported)) {
                s->reported = mask;
                result |= (int64_t)(mask | VP_LOST) << 32;
            }
        }
    })
}

int64_t vp_send(uint64_t handle, const char *data, size_t size, const struct vp_addr *to)
{
    ON_SOCKET(int64_t, handle, {
        ip_addr_t ip;
        if (s->stream)
            result = stream_send(s, data, size);
        else if ((result = autobind(s)) < 0)
            ;
        else if (to == NULL)
            result = send_datagram(s, data, size, NULL, 0);
        else if ((result = sock_to_ip(s, to, &ip)) == 0) {
            any_is_here(s, &ip);
            result = send_datagram(s, data, size, &ip, (u16_t)to->port);
            if (result == -ENETUNREACH)
                stats_no_route(IP_IS_V6(&ip));
        }
    })
}

int vp_sockname(uint64_t handle, struct vp_addr *out)
{
    ON_SOCKET(int, handle, {
        sock_from_ip(s, &s->local, s->local_port, out);
        result = 0;
    })
}

/* What a transport begins with: TCP_NODELAY, and the local address. */
int vp_begin(uint64_t handle, struct vp_addr *local)
{
    ON_SOCKET(int, handle, {
        s->nodelay = 1;
        if (s->stream)
            stream_apply(s);
        sock_from_ip(s, &s->local, s->local_port, local);
        result = 0;
    })
}

int vp_peername(uint64_t handle, struct vp_addr *out)
{
    ON_SOCKET(int, handle, {
        if (s->state != S_CONNECTED || s->remote_port == 0) {
            result = -ENOTCONN;
        } else {
            sock_from_ip(s, &s->remote, s->remote_port, out);
            result = 0;
        }
    })
}

/* Have the socket collected once more: Python was interrupted before it showed the mask. */
int vp_tell(uint64_t handle)
{
    ON_SOCKET(int, handle, {
        s->edge = 1;
        result = 0;
    })
}

int vp_mask(uint64_t handle)
{
    ON_SOCKET(int, handle, { result = (int)sock_mask(s); })
}
