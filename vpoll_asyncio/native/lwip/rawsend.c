/* What raw and ping sockets send: raw_sendmsg(), rawv6_sendmsg(), ping_common_sendmsg(). */

#include "shim.h"
#include "lwip/inet_chksum.h"
#include "lwip/ip4.h"
#include "lwip/ip6.h"

enum { MOST = 65535, ECHO4 = 8, ECHO6 = 128 };

struct target {
    const ip_addr_t *to;
    ip_addr_t from;
    struct netif *netif;
    unsigned protocol;
    int multicast;
};

static int choose_source(const struct sock *s, struct target *t)
{
    const ip_addr_t *own;
    int result = mcast_route(s, &s->local, t->to, &t->netif);
    if (result < 0)
        return result;
    if (!ip_addr_isany(&s->local) && !ip_addr_ismulticast(&s->local)
        && !nets_is_broadcast(&s->local)) {
        ip_addr_copy(t->from, s->local);
        return 0;
    }
    if ((own = ip_netif_get_local_ip(t->netif, t->to)) == NULL)
        return -EADDRNOTAVAIL;
    ip_addr_copy(t->from, *own);
    return 0;
}

static err_t put_out(struct netif *netif, struct pbuf *p, const ip_addr_t *to)
{
    return IP_IS_V6(to) ? netif->output_ip6(netif, p, ip_2_ip6(to))
                        : netif->output(netif, p, ip_2_ip4(to));
}

/* raw_send_hdrinc(): of IPv4's header some is filled in, IPv6's is sent as it is. */
static int64_t send_with_header(const struct sock *s, const char *data, size_t size,
                                const struct target *t)
{
    static u16_t identification;
    size_t header = IP6_HLEN;
    struct pbuf *p;
    err_t err;
    if (size > (t->netif->mtu ? t->netif->mtu : (size_t)MOST))
        return -EMSGSIZE;
    if (!s->v6)
        header = size ? ((size_t)data[0] & 15) * 4 : 0;
    if (size < header || header < (s->v6 ? IP6_HLEN : IP_HLEN))
        return -EINVAL;
    if ((p = pbuf_alloc(PBUF_LINK, (u16_t)size, PBUF_RAM)) == NULL)
        return -ENOBUFS;
    pbuf_take(p, data, (u16_t)size);
    if (!s->v6) {
        struct ip_hdr *ip = p->payload;
        if (ip->src.addr == IPADDR_ANY)
            ip->src.addr = ip_2_ip4(&t->from)->addr;
        IPH_LEN_SET(ip, lwip_htons((u16_t)size));
        if (IPH_ID(ip) == 0)
            IPH_ID_SET(ip, lwip_htons(++identification));
        IPH_CHKSUM_SET(ip, 0);
        IPH_CHKSUM_SET(ip, inet_chksum(ip, (u16_t)header));
    }
    if (nets_is_inside(&t->from, t->to, s->device)) {
        err = netif_loop_output(t->netif, p);
    } else {
        if (t->multicast && s->mc_loop && t->netif != nets_loopback())
            stats_loop_copy(t->netif, p);
        err = put_out(t->netif, p, t->to);
    }
    pbuf_free(p);
    return err == ERR_OK || err == ERR_MEM ? (int64_t)size : -errno_of(err);
}

/* The checksum at `at`, of ICMPv6 and of what IPV6_CHECKSUM asks for. */
static int fill_checksum6(struct pbuf *p, size_t at, const struct target *t)
{
    u8_t *d = p->payload;
    u16_t sum;
    if (at + 2 > p->len)
        return -EINVAL;
    d[at] = d[at + 1] = 0;
    sum = ip6_chksum_pseudo(p, (u8_t)t->protocol, p->tot_len, ip_2_ip6(&t->from),
                            ip_2_ip6(t->to));
    memcpy(d + at, &sum, 2);
    return 0;
}

static void fill_echo(struct pbuf *p, const struct sock *s)
{
    u8_t *d = p->payload;
    d[4] = (u8_t)(s->local_port >> 8);
    d[5] = (u8_t)s->local_port;
    if (!s->v6) {
        u16_t sum;
        d[2] = d[3] = 0;
        sum = inet_chksum(d, p->len);
        memcpy(d + 2, &sum, 2);
    }
}

static int fill_in(const struct sock *s, struct pbuf *p, const struct target *t)
{
    if (s->packet == P_PING)
        fill_echo(p, s);
    if (!s->v6)
        return 0;
    if (s->packet == P_PING || s->protocol == 58)
        return fill_checksum6(p, 2, t);
    return s->checksum >= 0 ? fill_checksum6(p, (size_t)s->checksum, t) : 0;
}

static int64_t send_payload(const struct sock *s, const char *data, size_t size,
                            const struct target *t)
{
    struct pbuf *p;
    err_t err;
    int result;
    u8_t ttl = t->multicast ? s->mc_ttl : s->ttl;
    if (size > (size_t)MOST - (s->v6 ? IP6_HLEN : IP_HLEN))
        return -EMSGSIZE;
    if ((p = pbuf_alloc(PBUF_IP, (u16_t)size, PBUF_RAM)) == NULL)
        return -ENOBUFS;
    if (size)
        pbuf_take(p, data, (u16_t)size);
    if ((result = fill_in(s, p, t)) < 0) {
        pbuf_free(p);
        return result;
    }
    if (t->multicast && s->mc_loop && t->netif != nets_loopback())
        p->flags |= PBUF_FLAG_MCASTLOOP;
    if (s->v6)
        err = ip6_output_if_src(p, ip_2_ip6(&t->from), ip_2_ip6(t->to), ttl, s->tos,
                                (u8_t)t->protocol, t->netif);
    else
        err = ip4_output_if_src(p, ip_2_ip4(&t->from), ip_2_ip4(t->to), ttl, s->tos,
                                (u8_t)t->protocol, t->netif);
    pbuf_free(p);
    /* A packet that found no room after all is lost, as packets may be. */
    return err == ERR_OK || err == ERR_MEM ? (int64_t)size : -errno_of(err);
}

/* rawv6_sendmsg(): the port of an address may name the protocol. */
static int choose_protocol(const struct sock *s, unsigned port, struct target *t)
{
    t->protocol = s->protocol;
    if (s->packet != P_RAW || !s->v6 || port == 0)
        return 0;
    if (port > 255 || (port != s->protocol && s->protocol != 255))
        return -EINVAL;
    t->protocol = port;
    return 0;
}

int64_t rawsock_send(struct sock *s, const char *data, size_t size, const ip_addr_t *to,
                     u16_t port)
{
    struct target t;
    int result;
    memset(&t, 0, sizeof t);
    if (s->state == S_DEAD)
        return s->error ? -sock_take_error(s) : -EPIPE;
    if (size > MOST)
        return -EMSGSIZE;
    if (s->packet == P_PING) {
        u8_t echo = s->v6 ? ECHO6 : ECHO4;
        if (size < 8 || (u8_t)data[0] != echo || data[1] != 0)
            return -EINVAL;
    }
    if (to == NULL && s->state != S_CONNECTED)
        return -EDESTADDRREQ;
    if (to == NULL) {
        to = &s->remote;
        port = s->remote_port;
    }
    t.to = to;
    t.multicast = ip_addr_ismulticast(to);
    if ((result = choose_protocol(s, port, &t)) < 0 || (result = sock_check_target(s, to)) < 0)
        return result;
    if ((result = choose_source(s, &t)) < 0)
        return result;
    if (nets_is_broadcast(to) && !s->broadcast)
        return -EACCES;
    if (s->error)
        return -sock_take_error(s);
    if (s->shut_wr)
        return -EPIPE;
    if (iface_of(t.netif) != NULL && link_full(iface_of(t.netif))) {
        s->refused_by = (uint8_t)iface_index(iface_of(t.netif));
        return -EAGAIN;
    }
    s->refused_by = 0;
    return s->hdrincl && s->packet == P_RAW ? send_with_header(s, data, size, &t)
                                            : send_payload(s, data, size, &t);
}
