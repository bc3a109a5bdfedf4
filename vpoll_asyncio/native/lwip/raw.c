/* Raw sockets (raw(7)) and ping sockets (icmp(7)): names, and what they receive.
 *
 * lwIP hands raw_input() every packet for this host, whole and with its header, before its
 * own protocols see it.  The function is interposed: here one packet goes to each socket
 * that wants it, as raw_v4_input() and rawv6 do it.  rawsend.c has the other direction. */

#include "shim.h"
#include "lwip/inet_chksum.h"
#include "lwip/priv/raw_priv.h"

enum { ICMP4 = 1, UDPLITE = 136, ICMP6 = 58 };

static struct sock *packets;

int rawsock_create(struct sock *s, enum packet_kind kind, int protocol)
{
    s->packet = (uint8_t)kind;
    s->protocol = (uint8_t)protocol;
    IP_SET_TYPE_VAL(s->local, s->v6 ? IPADDR_TYPE_V6 : IPADDR_TYPE_V4);
    /* Neither kind speaks IPv4 over IPv6. */
    s->v6only = s->v6;
    /* INET_PROTOSW_REUSE */
    s->reuse = 1;
    if (kind == P_RAW) {
        /* inet_create(): the protocol shows where others have a port. */
        s->local_port = (u16_t)protocol;
        s->hdrincl = protocol == 255;
        s->bound = 1;
    }
    s->next_packet = packets;
    packets = s;
    return 0;
}

void rawsock_close(struct sock *s)
{
    struct sock **at = &packets;
    while (*at != s)
        at = &(*at)->next_packet;
    *at = s->next_packet;
    mcast_leave_all(s);
}

/* ping_get_port() */
static int identifier_taken(const struct sock *s, u16_t identifier)
{
    for (const struct sock *it = packets; it != NULL; it = it->next_packet)
        if (it != s && it->packet == P_PING && it->state != S_DEAD && it->bound
            && it->local_port == identifier && !(it->reuse && s->reuse))
            return 1;
    return 0;
}

static int take_identifier(struct sock *s, u16_t identifier)
{
    static u16_t latest;
    if (identifier == 0) {
        if (latest == 0)
            latest = (u16_t)rand();
        for (unsigned tries = 0; tries < 0x10000; tries++) {
            latest = (u16_t)(latest == 0xffff ? 1 : latest + 1);
            if (!identifier_taken(s, latest)) {
                identifier = latest;
                break;
            }
        }
    }
    if (identifier == 0 || identifier_taken(s, identifier))
        return -EADDRINUSE;
    s->local_port = identifier;
    s->bound = 1;
    return 0;
}

int rawsock_bind(struct sock *s, const ip_addr_t *ip, u16_t port)
{
    int result;
    if (s->state == S_DEAD)
        return -ENETDOWN;
    if (s->packet == P_RAW && s->state == S_CONNECTED)
        return -EINVAL;
    if (s->packet == P_PING) {
        if (s->bound)
            return -EINVAL;
        if ((result = take_identifier(s, port)) < 0)
            return result;
    }
    ip_addr_copy(s->local, *ip);
    return 0;
}

int rawsock_autobind(struct sock *s)
{
    if (s->bound || s->state == S_DEAD)
        return 0;
    return take_identifier(s, 0) < 0 ? -EAGAIN : 0;
}

int rawsock_connect(struct sock *s, const ip_addr_t *ip, u16_t port)
{
    struct netif *netif;
    const ip_addr_t *source;
    int result;
    if (s->state == S_DEAD)
        return -ENETDOWN;
    if ((result = sock_check_target(s, ip)) < 0)
        return result;
    if (nets_is_broadcast(ip) && !s->broadcast)
        return -EACCES;
    if ((result = route_choose(s->device, &s->local, ip, &netif)) < 0)
        return result;
    s->state = S_CONNECTED;
    ip_addr_copy(s->remote, *ip);
    s->remote_port = port;
    source = ip_netif_get_local_ip(netif, ip);
    if (ip_addr_isany(&s->local) && source != NULL)
        ip_addr_copy(s->local, *source);
    return 0;
}

static int hears(const struct sock *s, int v6, const ip_addr_t *src, const ip_addr_t *dest)
{
    if (s->v6 != v6 || s->state == S_DEAD)
        return 0;
    if (s->device && s->device != netif_get_index(ip_current_input_netif()))
        return 0;
    if (!ip_addr_isany(&s->local) && !sock_same_ip(&s->local, dest))
        return 0;
    if (!mcast_hears(s, dest, ip_current_input_netif()))
        return 0;
    /* ping_lookup() does not ask who the peer is. */
    return s->packet == P_PING || s->state != S_CONNECTED || sock_same_ip(&s->remote, src);
}

/* Whether a raw socket wants packets of a protocol that lwIP does not have. */
int rawsock_wants(int v6, unsigned protocol)
{
    for (const struct sock *s = packets; s != NULL; s = s->next_packet)
        if (s->packet == P_RAW && s->v6 == v6 && s->protocol == protocol && s->state != S_DEAD)
            return 1;
    return 0;
}

/* icmp_filter(), icmpv6_filter(): IPv4's has a bit for the first 32 types only. */
static int filtered(const struct sock *s, unsigned type)
{
    if (s->protocol != (s->v6 ? ICMP6 : ICMP4) || (!s->v6 && type > 31))
        return 0;
    return s->filter[type / 32] >> type % 32 & 1;
}

/* The protocol of the packet, and where its header ends.  check.c lets no extension header
 * in but hop-by-hop options, and lwIP has put fragments together. */
static unsigned transport(const struct pbuf *p, int v6, u16_t *at)
{
    /* Not ip6_current_header(), which is the first fragment's. */
    const u8_t *header = p->payload;
    unsigned next;
    if (!v6) {
        *at = (u16_t)((header[0] & 15) * 4);
        return header[9];
    }
    *at = IP6_HLEN;
    next = header[6];
    while (next == 0 || next == 43 || next == 44 || next == 60) {
        u8_t head[2];
        if (pbuf_copy_partial(p, head, 2, *at) != 2)
            return 59;
        *at = (u16_t)(*at + (next == 44 ? 8 : 8 * (1 + head[1])));
        next = head[0];
    }
    return next;
}

static struct pbuf *copy_from(const struct pbuf *p, u16_t at)
{
    u16_t len = (u16_t)(p->tot_len - at);
    struct pbuf *q = pbuf_alloc(PBUF_RAW, len, PBUF_RAM);
    if (q != NULL)
        pbuf_copy_partial(p, q->payload, len, at);
    return q;
}

static void give(struct sock *s, struct pbuf *q)
{
    pbuf_ref(q);
    dgram_push(s, q, ip_current_src_addr(), 0);
}

static int sound(const struct pbuf *body, int v6)
{
    if (v6)
        return ip6_chksum_pseudo((struct pbuf *)body, ICMP6, body->tot_len,
                                 ip6_current_src_addr(), ip6_current_dest_addr()) == 0;
    return inet_chksum(body->payload, body->len) == 0;
}

/* ping_rcv(): a reply goes to the one socket that has its identifier. */
static void give_reply(struct pbuf *body, int v6)
{
    const u8_t *d = body->payload;
    u16_t identifier = (u16_t)(d[4] << 8 | d[5]);
    if (d[0] != (v6 ? 129 : 0) || d[1] != 0 || !sound(body, v6))
        return;
    for (struct sock *s = packets; s != NULL; s = s->next_packet)
        if (s->packet == P_PING && s->bound && s->local_port == identifier
            && hears(s, v6, ip_current_src_addr(), ip_current_dest_addr())) {
            give(s, body);
            return;
        }
}

/* Interposed. */
__attribute__((visibility("default")))
raw_input_state_t raw_input(struct pbuf *p, struct netif *inp)
{
    int v6 = ip_current_is_v6(), icmp, delivered = 0, bad = 0;
    struct pbuf *whole = NULL, *body = NULL;
    unsigned protocol;
    u16_t at;
    LWIP_UNUSED_ARG(inp);
    protocol = transport(p, v6, &at);
    icmp = protocol == (v6 ? ICMP6 : ICMP4);
    stats_delivered(p, v6, protocol, at);
    if (icmp)
        icmp_look(p, v6);
    if (packets == NULL || at > p->tot_len)
        return RAW_INPUT_NONE;
    if (icmp && p->tot_len >= at + 8 && (body = copy_from(p, at)) != NULL) {
        give_reply(body, v6);
        /* rawv6_rcv(): IPv4's raw sockets see the checksum and may judge themselves. */
        bad = v6 && !sound(body, 1);
    }
    for (struct sock *s = packets; s != NULL && !bad; s = s->next_packet) {
        struct pbuf **copy = v6 ? &body : &whole;
        if (s->packet != P_RAW || s->protocol != protocol
            || !hears(s, v6, ip_current_src_addr(), ip_current_dest_addr()))
            continue;
        delivered = 1;
        if (icmp && filtered(s, pbuf_get_at(p, at)))
            continue;
        if (*copy == NULL && (*copy = copy_from(p, v6 ? at : 0)) == NULL)
            break;
        give(s, *copy);
    }
    if (whole != NULL)
        pbuf_free(whole);
    if (body != NULL)
        pbuf_free(body);
    if (protocol == UDPLITE) {
        pbuf_free(p);
        return RAW_INPUT_EATEN;
    }
    return delivered ? RAW_INPUT_DELIVERED : RAW_INPUT_NONE;
}

/* raw_err(), ping_err(): who is connected hears of fatal errors.  `inner` is what had been
 * sent, from its transport header on. */
void rawsock_unreachable(unsigned protocol, const u8_t *inner, const ip_addr_t *local,
                         const ip_addr_t *remote, int error)
{
    int v6 = IP_IS_V6(remote);
    u16_t identifier = (u16_t)(inner[4] << 8 | inner[5]);
    int echo = protocol == (v6 ? ICMP6 : ICMP4) && inner[0] == (v6 ? 128 : 8);
    for (struct sock *s = packets; s != NULL; s = s->next_packet) {
        if (s->state != S_CONNECTED || s->v6 != v6 || s->protocol != protocol
            || (s->packet == P_PING ? !echo || s->local_port != identifier
                                    : !sock_same_ip(&s->remote, remote))
            || (!ip_addr_isany(&s->local) && !sock_same_ip(&s->local, local)))
            continue;
        s->error = error;
        sock_touch(s, 1);
    }
}
