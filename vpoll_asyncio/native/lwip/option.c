/* Socket options.  They are kept in our own structure, because a listening protocol
 * block has no room for them and accepted sockets inherit them. */

#include "shim.h"

static int64_t get(struct sock *s, int option)
{
    switch (option) {
    case VP_ERROR: return sock_take_error(s);
    case VP_ACCEPTCONN: return s->state == S_LISTEN;
    case VP_REUSEADDR: return s->reuse;
    case VP_KEEPALIVE: return s->keepalive;
    case VP_BROADCAST: return s->broadcast;
    case VP_RCVBUF: return (int64_t)s->rcvbuf;
    case VP_SNDBUF: return (int64_t)s->sndbuf;
    case VP_LINGER: return s->linger_on ? s->linger_seconds : -1;
    case VP_TTL: return s->ttl;
    case VP_TOS: return s->tos;
    case VP_DEVICE: return s->device;
    case VP_V6ONLY: return s->v6 ? s->v6only : -EOPNOTSUPP;
    case VP_MULTICAST_TTL: return s->mc_ttl;
    case VP_MULTICAST_LOOP: return s->mc_loop;
    case VP_MULTICAST_ALL: return s->mc_all;
    case VP_MULTICAST_ALL6: return s->v6 ? s->mc_all6 : -ENOPROTOOPT;
    case VP_MULTICAST_IF: return s->mc_address;
    case VP_MULTICAST_IF6: return s->v6 ? s->mc_index : -ENOPROTOOPT;
    case VP_HDRINCL: return s->packet == P_RAW ? s->hdrincl : -ENOPROTOOPT;
    case VP_CHECKSUM:
        if (s->packet != P_RAW || !s->v6)
            return -ENOPROTOOPT;
        return s->protocol == 58 ? 2 : s->checksum;
    case VP_AVAILABLE:
        if (s->state == S_LISTEN)
            return -EINVAL;
        return s->stream ? (int64_t)s->rx_bytes : s->dg_head ? (int64_t)s->dg_head->p->tot_len : 0;
    default: break;
    }
    if (!s->stream)
        return -ENOPROTOOPT;
    switch (option) {
    case VP_NODELAY: return s->nodelay;
    case VP_KEEPIDLE: return s->keep_idle;
    case VP_KEEPINTVL: return s->keep_intvl;
    case VP_KEEPCNT: return s->keep_cnt;
    case VP_MAXSEG:
        return s->pcb.tcp != NULL && s->state == S_CONNECTED ? s->pcb.tcp->mss : 536;
    default: return -ENOPROTOOPT;
    }
}

static int in_range(int64_t value, int64_t low, int64_t high)
{
    return value >= low && value <= high;
}

static int set(struct sock *s, int option, int64_t value)
{
    switch (option) {
    case VP_REUSEADDR: s->reuse = value != 0; break;
    case VP_KEEPALIVE: s->keepalive = value != 0; break;
    case VP_BROADCAST: s->broadcast = value != 0; break;
    case VP_RCVBUF:
        /* A stream's window is a constant of the library. */
        if (!s->stream)
            s->rcvbuf = (size_t)(value < 2304 ? 2304 : value > 16777216 ? 16777216 : value);
        return 0;
    case VP_SNDBUF:
        if (s->stream)
            stream_set_sndbuf(s, value);
        return 0;
    case VP_LINGER:
        s->linger_on = value >= 0;
        s->linger_seconds = value >= 0 ? (int)value : 0;
        return 0;
    case VP_TTL:
        if (!in_range(value, 1, 255))
            return -EINVAL;
        s->ttl = (uint8_t)value;
        break;
    case VP_TOS:
        if (!in_range(value, 0, 255))
            return -EINVAL;
        s->tos = (uint8_t)value;
        break;
    case VP_DEVICE:
        if (value && nets_by_index((u32_t)value) == NULL)
            return -ENODEV;
        s->device = (uint8_t)value;
        break;
    case VP_V6ONLY:
        if (!s->v6)
            return -ENOPROTOOPT;
        /* ipv6(7): it may not change once the socket is bound. */
        if (s->bound)
            return -EINVAL;
        s->v6only = value != 0;
        break;
    case VP_MULTICAST_TTL:
        if (s->stream || !in_range(value, 0, 255))
            return -EINVAL;
        s->mc_ttl = (uint8_t)value;
        break;
    case VP_MULTICAST_LOOP: s->mc_loop = value != 0; break;
    case VP_MULTICAST_ALL:
        if (!in_range(value, 0, 1))
            return -EINVAL;
        s->mc_all = (uint8_t)value;
        break;
    case VP_MULTICAST_ALL6:
        if (!s->v6)
            return -ENOPROTOOPT;
        if (!in_range(value, 0, 1))
            return -EINVAL;
        s->mc_all6 = (uint8_t)value;
        break;
    case VP_HDRINCL:
        if (s->packet != P_RAW)
            return -ENOPROTOOPT;
        s->hdrincl = value != 0;
        return 0;
    case VP_CHECKSUM:
        if (s->packet != P_RAW || !s->v6)
            return -ENOPROTOOPT;
        /* RFC 3542, section 3.1: the kernel's place in ICMPv6 is the protocol's own. */
        if (s->protocol == 58 || (value > 0 && value & 1) || value > 65534)
            return -EINVAL;
        s->checksum = value < 0 ? -1 : (int)value;
        return 0;
    default:
        if (!s->stream)
            return -ENOPROTOOPT;
        switch (option) {
        case VP_NODELAY: s->nodelay = value != 0; break;
        case VP_KEEPIDLE:
            if (!in_range(value, 1, 32767))
                return -EINVAL;
            s->keep_idle = (uint32_t)value;
            break;
        case VP_KEEPINTVL:
            if (!in_range(value, 1, 32767))
                return -EINVAL;
            s->keep_intvl = (uint32_t)value;
            break;
        case VP_KEEPCNT:
            if (!in_range(value, 1, 127))
                return -EINVAL;
            s->keep_cnt = (uint32_t)value;
            break;
        default: return -ENOPROTOOPT;
        }
    }
    if (s->stream)
        stream_apply(s);
    else
        dgram_apply(s);
    return 0;
}

int64_t vp_getopt(uint64_t handle, int option)
{
    int64_t result = -EBADF;
    struct sock *s;
    core_enter();
    if ((s = sock_find(handle)) != NULL) {
        result = get(s, option);
        sock_touch(s, 0);
    }
    core_leave();
    return result;
}

int vp_setopt(uint64_t handle, int option, int64_t value)
{
    int result = -EBADF;
    struct sock *s;
    core_enter();
    if ((s = sock_find(handle)) != NULL) {
        result = set(s, option, value);
        sock_touch(s, 0);
    }
    core_leave();
    return result;
}

/* ICMP_FILTER (one word) and ICMPV6_FILTER (eight) of a raw socket. */
int vp_filter(uint64_t handle, int set, uint32_t *words)
{
    int result = -EBADF;
    struct sock *s;
    core_enter();
    if ((s = sock_find(handle)) != NULL) {
        size_t size = s->v6 ? sizeof s->filter : sizeof s->filter[0];
        result = 0;
        if (s->packet != P_RAW || s->protocol != (s->v6 ? 58 : 1))
            result = s->packet == P_RAW ? -EOPNOTSUPP : -ENOPROTOOPT;
        else if (set)
            memcpy(s->filter, words, size);
        else
            memcpy(words, s->filter, size);
    }
    core_leave();
    return result;
}
