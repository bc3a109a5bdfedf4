/* The table of sockets, and the calls that Python makes on them.
 *
 * A socket is named by a number that is never used again, so a call that races with
 * close() in another thread finds EBADF and not somebody else's socket. */

#include "shim.h"
#include "lwip/priv/tcp_priv.h"

enum { INDEX_BITS = 20, LIMIT = 1 << INDEX_BITS };

static struct sock **table;
static size_t table_size;
static uint32_t *unused;        /* stack of free indices */
static size_t unused_count;
static uint64_t generation;
static struct sock *dirty_first, *dirty_last;
static uint32_t dirty_count;

static int grow(void)
{
    size_t size = table_size ? table_size * 2 : 64;
    struct sock **bigger;
    uint32_t *more;
    if (size > LIMIT)
        return -1;
    bigger = realloc(table, size * sizeof *table);
    if (bigger == NULL)
        return -1;
    table = bigger;
    more = realloc(unused, size * sizeof *unused);
    if (more == NULL)
        return -1;
    unused = more;
    for (size_t i = size; i-- > table_size;) {
        table[i] = NULL;
        unused[unused_count++] = (uint32_t)i;
    }
    table_size = size;
    return 0;
}

struct sock *sock_new(int v6, int stream)
{
    struct sock *s;
    uint32_t index;
    if (unused_count == 0 && grow() < 0)
        return NULL;
    s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    index = unused[--unused_count];
    s->handle = ++generation << INDEX_BITS | index;
    s->stream = (uint8_t)(stream != 0);
    s->v6 = (uint8_t)(v6 != 0);
    s->rcvbuf = stream ? TCP_WND : 212992;
    s->sndbuf = TCP_SND_BUF;
    s->keep_idle = 7200;
    s->keep_intvl = 75;
    s->keep_cnt = 9;
    s->ttl = 64;
    s->mc_ttl = s->mc_loop = s->mc_all6 = 1;
    /* inet6_create() leaves IPv4's off. */
    s->mc_all = (uint8_t)!v6;
    s->checksum = -1;
    table[index] = s;
    return s;
}

struct sock *sock_find(uint64_t handle)
{
    size_t index = handle & (LIMIT - 1);
    if (index >= table_size || table[index] == NULL || table[index]->handle != handle)
        return NULL;
    return table[index];
}

struct sock *sock_each(size_t *cursor)
{
    while (*cursor < table_size) {
        struct sock *s = table[(*cursor)++];
        if (s != NULL)
            return s;
    }
    return NULL;
}

void sock_free(struct sock *s)
{
    size_t index = s->handle & (LIMIT - 1);
    if (s->dirty) {
        struct sock *prev = NULL, *it = dirty_first;
        while (it != s) {
            prev = it;
            it = it->next_dirty;
        }
        if (prev != NULL)
            prev->next_dirty = s->next_dirty;
        else
            dirty_first = s->next_dirty;
        if (dirty_last == s)
            dirty_last = prev;
        dirty_count--;
    }
    if (s->rx_head != NULL)
        pbuf_free(s->rx_head);
    while (s->dg_head != NULL) {
        struct dgram *d = s->dg_head;
        s->dg_head = d->next;
        pbuf_free(d->p);
        free(d);
    }
    table[index] = NULL;
    unused[unused_count++] = (uint32_t)index;
    free(s);
}

void sock_touch(struct sock *s, int edge)
{
    /* Python does not know it before accept(). */
    if (s->listener != NULL)
        return;
    s->edge |= (uint8_t)edge;
    if (s->dirty || (!s->edge && sock_mask(s) == s->reported))
        return;
    s->dirty = 1;
    s->next_dirty = NULL;
    if (dirty_last != NULL)
        dirty_last->next_dirty = s;
    else
        dirty_first = s;
    dirty_last = s;
    dirty_count++;
}

int sock_dirty(void)
{
    return (int)dirty_count;
}

uint32_t sock_mask(const struct sock *s)
{
    return s->stream ? stream_mask(s) : dgram_mask(s);
}

int sock_take_error(struct sock *s)
{
    int error = s->error;
    s->error = 0;
    return error;
}

void sock_abort_all(void)
{
    size_t cursor = 0;
    struct sock *s;
    while ((s = sock_each(&cursor)) != NULL) {
        if (s->listener != NULL)
            continue;
        if (s->stream)
            stream_kill(s, ENETDOWN);
        else
            dgram_kill(s, ENETDOWN);
        sock_touch(s, 1);
    }
}

void sock_touch_datagrams(void)
{
    size_t cursor = 0;
    struct sock *s;
    while ((s = sock_each(&cursor)) != NULL)
        if (!s->stream)
            sock_touch(s, 0);
}

/* What Python is to show next of the sockets that have changed. */
int sock_collect(uint64_t *handles, uint32_t *masks, int max)
{
    int count = 0;
    while (count < max && dirty_first != NULL) {
        struct sock *s = dirty_first;
        uint32_t mask = sock_mask(s);
        dirty_first = s->next_dirty;
        if (dirty_first == NULL)
            dirty_last = NULL;
        dirty_count--;
        s->dirty = 0;
        if (mask == s->reported && !s->edge)
            continue;
        s->edge = 0;
        s->reported = mask;
        handles[count] = s->handle;
        masks[count++] = mask;
    }
    return count;
}

int vp_collect(uint64_t *handles, uint32_t *masks, int max)
{
    int count;
    core_enter();
    count = sock_collect(handles, masks, max);
    core_leave();
    return count;
}

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
