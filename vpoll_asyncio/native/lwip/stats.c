/* Counters, named as in /proc/net/snmp and counted where the kernel counts them.
 *
 * The library is built without its own.  Packets are counted where they pass here anyway; of
 * what happens inside of lwIP some functions are interposed, which count and call its own. */

#define _GNU_SOURCE
#include <dlfcn.h>

#include "shim.h"
#include "lwip/icmp.h"
#include "lwip/icmp6.h"
#include "lwip/inet_chksum.h"
#include "lwip/init.h"
#include "lwip/priv/tcp_priv.h"

static struct vp_stats stats;

static struct {
    err_t (*loop_output)(struct netif *netif, struct pbuf *p);
    err_t (*tcp_output)(struct tcp_pcb *pcb);
    void (*tcp_input)(struct pbuf *p, struct netif *inp);
    void (*tcp_abandon)(struct tcp_pcb *pcb, int reset);
    void (*udp_input)(struct pbuf *p, struct netif *inp);
    u16_t (*chksum)(struct pbuf *p, u8_t proto, u16_t len, const ip_addr_t *src,
                    const ip_addr_t *dest);
    void (*unreach4)(struct pbuf *p, enum icmp_dur_type type);
    void (*unreach6)(struct pbuf *p, enum icmp6_dur_code code);
} own;

static const struct tcp_pcb *sending;
static unsigned checking;       /* the protocol whose segment is about to be verified */
static int abandoning;
static int from_fragments;

int stats_open(void)
{
    Dl_info info;
    void *library;
    memset(&stats, 0, sizeof stats);
    if (own.loop_output != NULL)
        return 0;
    if (dladdr((void *)(uintptr_t)lwip_init, &info) == 0
        || (library = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD)) == NULL)
        return -1;
    /* POSIX: a function's address as dlsym() returns it. */
    *(void **)&own.tcp_output = dlsym(library, "tcp_output");
    *(void **)&own.tcp_input = dlsym(library, "tcp_input");
    *(void **)&own.tcp_abandon = dlsym(library, "tcp_abandon");
    *(void **)&own.udp_input = dlsym(library, "udp_input");
    *(void **)&own.chksum = dlsym(library, "ip_chksum_pseudo");
    *(void **)&own.unreach4 = dlsym(library, "icmp_dest_unreach");
    *(void **)&own.unreach6 = dlsym(library, "icmp6_dest_unreach");
    *(void **)&own.loop_output = dlsym(library, "netif_loop_output");
    dlclose(library);
    return own.tcp_output && own.tcp_input && own.tcp_abandon && own.udp_input && own.chksum
           && own.unreach4 && own.unreach6 && own.loop_output ? 0 : -1;
}

static unsigned get16(const u8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static struct vp_ip_stats *ip_of(int v6)
{
    return v6 ? &stats.Ip6 : &stats.Ip;
}

static struct vp_udp_stats *udp_of(int v6)
{
    return v6 ? &stats.Udp6 : &stats.Udp;
}

static struct vp_icmp_stats *icmp_of(int v6)
{
    return v6 ? &stats.Icmp6 : &stats.Icmp;
}

/* Why check.c refused a packet: by its addresses, by its header, or further in. */
static void refused(const struct iface *it, const u8_t *p, size_t len, enum verdict verdict)
{
    int v6 = p[0] >> 4 == 6, shared;
    size_t header = v6 ? 40 : (size_t)(p[0] & 15) * 4, total;
    unsigned protocol;
    ip_addr_t dest;
    if (verdict == BACKLOG)
        return;
    if (verdict == MARTIAN || len < (v6 ? 40 : 20)) {
        (*(verdict == MARTIAN ? &ip_of(v6)->InAddrErrors : &ip_of(v6)->InHdrErrors))++;
        return;
    }
    memset(&dest, 0, sizeof dest);
    IP_SET_TYPE_VAL(dest, v6 ? IPADDR_TYPE_V6 : IPADDR_TYPE_V4);
    memcpy(v6 ? (void *)ip_2_ip6(&dest)->addr : (void *)&ip_2_ip4(&dest)->addr, p + (v6 ? 24 : 16),
           v6 ? 16 : 4);
    if (verdict == FOREIGN) {
        shared = ip_addr_ismulticast(&dest) || nets_is_broadcast(&dest)
                 || nets_of_address_at(&dest, it) != NULL;
        (*(shared ? &ip_of(v6)->InUnknownProtos : &ip_of(v6)->InAddrErrors))++;
        return;
    }
    total = v6 ? 40 + get16(p + 4) : get16(p + 2);
    protocol = v6 ? p[6] : p[9];
    if (header < 20 || total < header || total > len || (!v6 && get16(p + 6) & 0x3fff)
        || (!v6 && inet_chksum(p, (u16_t)header) != 0))
        ip_of(v6)->InHdrErrors++;
    else if (protocol == 6)
        stats.Tcp.InSegs++, stats.Tcp.InErrs++;
    else if (protocol == 17)
        udp_of(v6)->InErrors++;
    else if (protocol == (v6 ? 58 : 1))
        icmp_of(v6)->InMsgs++, icmp_of(v6)->InErrors++;
    else
        ip_of(v6)->InHdrErrors++;
}

/* A packet that check.c has judged; with PASS it goes on to lwIP. */
void stats_received(const struct iface *it, const u8_t *p, size_t len, enum verdict verdict)
{
    int v6 = len > 0 && p[0] >> 4 == 6;
    ip_of(v6)->InReceives++;
    from_fragments = 0;
    if (len == 0 || (verdict != PASS && verdict != BACKLOG)) {
        if (len == 0)
            stats.Ip.InHdrErrors++;
        else
            refused(it, p, len, verdict);
        return;
    }
    if (v6 ? p[6] == 44 : (get16(p + 6) & 0x3fff) != 0) {
        ip_of(v6)->ReasmReqds++;
        from_fragments = 1;
    }
}

static void count_icmp(struct vp_icmp_stats *to, int v6, unsigned type, int in)
{
    uint64_t *count = NULL;
    if (type == (v6 ? 1 : 3))
        count = in ? &to->InDestUnreachs : &to->OutDestUnreachs;
    else if (type == (v6 ? 3 : 11))
        count = in ? &to->InTimeExcds : &to->OutTimeExcds;
    else if (type == (v6 ? 128 : 8))
        count = in ? &to->InEchos : &to->OutEchos;
    else if (type == (v6 ? 129 : 0))
        count = in ? &to->InEchoReps : &to->OutEchoReps;
    (*(in ? &to->InMsgs : &to->OutMsgs))++;
    if (count != NULL)
        ++*count;
}

/* A whole packet, which lwIP has found to be for this host. */
void stats_delivered(const struct pbuf *p, int v6, unsigned protocol, u16_t at)
{
    ip_of(v6)->InDelivers++;
    if (from_fragments) {
        ip_of(v6)->ReasmOKs++;
        from_fragments = 0;
    }
    if (protocol == 6)
        stats.Tcp.InSegs++;
    else if (protocol == (v6 ? 58 : 1) && p->tot_len > at)
        count_icmp(icmp_of(v6), v6, pbuf_get_at(p, at), 1);
}

void stats_datagram(int v6, int room)
{
    if (room) {
        udp_of(v6)->InDatagrams++;
    } else {
        udp_of(v6)->InErrors++;
        udp_of(v6)->RcvbufErrors++;
    }
}

void stats_no_route(int v6)
{
    ip_of(v6)->OutNoRoutes++;
}

static void count_segment(const u8_t *tcp, size_t len)
{
    size_t header = (size_t)(tcp[12] >> 4) * 4;
    unsigned flags = tcp[13];
    u32_t seq = (u32_t)get16(tcp + 4) << 16 | get16(tcp + 6);
    stats.Tcp.OutSegs++;
    if (flags & TCP_RST)
        stats.Tcp.OutRsts++;
    else if (sending != NULL && (len > header || flags & (TCP_SYN | TCP_FIN))
             && get16(tcp) == sending->local_port && get16(tcp + 2) == sending->remote_port
             && TCP_SEQ_LT(seq, sending->snd_nxt))
        stats.Tcp.RetransSegs++;
}

/* A packet, or a fragment of one, on its way out. */
void stats_sent(const struct pbuf *p)
{
    const u8_t *d = p->payload;
    int v6 = d[0] >> 4 == 6, more = 0;
    size_t at = v6 ? 40 : (size_t)(d[0] & 15) * 4;
    unsigned protocol = v6 ? d[6] : d[9], offset = 0;
    u8_t head[20];
    const u8_t *inner = head;
    size_t got;
    if (v6 && protocol == 0 && p->len >= 48) {
        protocol = d[40];
        at = 48 + (size_t)d[41] * 8;
    }
    if (v6 && protocol == 44 && p->len >= at + 8) {
        protocol = d[at];
        offset = get16(d + at + 2) & 0xfff8;
        more = d[at + 3] & 1;
        at += 8;
    } else if (!v6) {
        offset = get16(d + 6) & 0x1fff;
        more = d[6] & 0x20;
    }
    if (more || offset)
        ip_of(v6)->FragCreates++;
    if (offset)
        return;
    ip_of(v6)->FragOKs += more != 0;
    ip_of(v6)->OutRequests++;
    if (p->len >= at + sizeof head) {
        inner = d + at;
        got = sizeof head;
    } else {
        got = pbuf_copy_partial(p, head, sizeof head, (u16_t)at);
    }
    if (protocol == 6 && got == sizeof head)
        count_segment(inner, p->tot_len - at);
    else if (protocol == 17)
        udp_of(v6)->OutDatagrams++;
    else if (protocol == (v6 ? 58 : 1) && got > 0)
        count_icmp(icmp_of(v6), v6, inner[0], 0);
}

void stats_connected(void)
{
    stats.Tcp.PassiveOpens++;
}

void stats_connecting(void)
{
    stats.Tcp.ActiveOpens++;
}

/* tcp_set_state(): a connection that ends without both FINs. */
void stats_broken(int connecting)
{
    if (abandoning)
        return;
    if (connecting)
        stats.Tcp.AttemptFails++;
    else
        stats.Tcp.EstabResets++;
}

/* The loop's copy of what has been counted on its way out. */
err_t stats_loop_copy(struct netif *netif, struct pbuf *p)
{
    return own.loop_output(netif, p);
}

/* From here on interposed. */

__attribute__((visibility("default")))
err_t netif_loop_output(struct netif *netif, struct pbuf *p)
{
    if (!(p->flags & PBUF_FLAG_MCASTLOOP))
        stats_sent(p);
    return own.loop_output(netif, p);
}

__attribute__((visibility("default")))
err_t tcp_output(struct tcp_pcb *pcb)
{
    const struct tcp_pcb *before = sending;
    err_t err;
    sending = pcb;
    err = own.tcp_output(pcb);
    sending = before;
    return err;
}

__attribute__((visibility("default")))
void tcp_input(struct pbuf *p, struct netif *inp)
{
    checking = 6;
    own.tcp_input(p, inp);
    checking = 0;
}

__attribute__((visibility("default")))
void udp_input(struct pbuf *p, struct netif *inp)
{
    checking = 17;
    own.udp_input(p, inp);
    checking = 0;
}

/* The first sum in either input function is that of what has come in. */
__attribute__((visibility("default")))
u16_t ip_chksum_pseudo(struct pbuf *p, u8_t proto, u16_t len, const ip_addr_t *src,
                       const ip_addr_t *dest)
{
    u16_t sum = own.chksum(p, proto, len, src, dest);
    if (checking && checking == proto && sum != 0) {
        if (proto == 6) {
            stats.Tcp.InErrs++;
            stats.Tcp.InCsumErrors++;
        } else {
            udp_of(IP_IS_V6(dest))->InErrors++;
            udp_of(IP_IS_V6(dest))->InCsumErrors++;
        }
    }
    checking = 0;
    return sum;
}

__attribute__((visibility("default")))
void tcp_abandon(struct tcp_pcb *pcb, int reset)
{
    if (pcb->state == ESTABLISHED || pcb->state == CLOSE_WAIT)
        stats.Tcp.EstabResets++;
    else if (pcb->state == SYN_SENT || pcb->state == SYN_RCVD)
        stats.Tcp.AttemptFails++;
    abandoning = 1;
    own.tcp_abandon(pcb, reset);
    abandoning = 0;
}

__attribute__((visibility("default")))
void icmp_dest_unreach(struct pbuf *p, enum icmp_dur_type type)
{
    if (type == ICMP_DUR_PORT)
        stats.Udp.NoPorts++;
    own.unreach4(p, type);
}

__attribute__((visibility("default")))
void icmp6_dest_unreach(struct pbuf *p, enum icmp6_dur_code code)
{
    if (code == ICMP6_DUR_PORT)
        stats.Udp6.NoPorts++;
    own.unreach6(p, code);
}

static void count_sock(struct vp_socket_stats *to, const struct sock *s)
{
    if (s->state == S_DEAD)
        return;
    if (s->stream)
        to->tcp++;
    else if (s->packet == P_RAW)
        to->raw++;
    else if (s->packet == P_PING)
        to->ping++;
    else
        to->udp++;
    to->receive_bytes += s->stream ? s->rx_bytes : s->dg_bytes;
    if (s->stream && s->pcb.tcp != NULL && s->state == S_CONNECTED)
        to->send_bytes += s->sndbuf > tcp_sndbuf(s->pcb.tcp) ? s->sndbuf - tcp_sndbuf(s->pcb.tcp) : 0;
}

int vp_stats(struct vp_stats *out)
{
    size_t cursor = 0;
    struct sock *s;
    core_enter();
    *out = stats;
    for (const struct tcp_pcb *pcb = tcp_active_pcbs; pcb != NULL; pcb = pcb->next)
        out->Tcp.CurrEstab += pcb->state == ESTABLISHED || pcb->state == CLOSE_WAIT;
    for (const struct tcp_pcb *pcb = tcp_tw_pcbs; pcb != NULL; pcb = pcb->next)
        out->Sockets.tcp_tw++;
    while ((s = sock_each(&cursor)) != NULL)
        if (s->listener == NULL)
            count_sock(&out->Sockets, s);
    core_leave();
    return 0;
}
