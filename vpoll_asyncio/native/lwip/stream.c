/* TCP sockets over lwIP's raw interface, with the kernel's semantics on top.
 *
 * lwIP frees a protocol block behind our back in three ways: it tells the error
 * callback, it lets TIME-WAIT run out, or it was us.  So a block is let go as soon as
 * both directions have ended, and nothing here refers to one in TIME-WAIT. */

#include "shim.h"
#include "lwip/priv/tcp_priv.h"

enum { TIME_WAIT_LIMIT = 4096, SNDBUF_LOW = 4096, SNDBUF_HIGH = 262144 };

int stream_receiving_ended(const struct sock *s)
{
    return s->shut_rd || s->fin || s->state == S_DEAD;
}

static int sending_ended(const struct sock *s)
{
    return s->shut_wr || s->state == S_DEAD;
}

static int writable(const struct sock *s)
{
    const struct tcp_pcb *pcb = s->pcb.tcp;
    return pcb != NULL && !s->blocked && tcp_sndbuf(pcb) > s->sndbuf / 3
           && pcb->snd_queuelen < TCP_SND_QUEUELEN * 2 / 3;
}

uint32_t stream_mask(const struct sock *s)
{
    uint32_t mask = s->error ? M_ERR : 0;
    int rd = stream_receiving_ended(s), wr = sending_ended(s);
    switch (s->state) {
    case S_LISTEN:
        /* inet_csk_listen_poll(): an error of before shows to SO_ERROR only. */
        return s->aq_head != NULL ? M_R : 0;
    case S_CONNECTING:
        /* tcp_poll(): what was shut down before connect() shows in TCP_SYN_SENT too. */
        return mask | (rd && wr ? M_HUP : 0) | (rd ? M_R | M_RDHUP : 0);
    case S_NEW:
        return mask | M_W | M_HUP | (rd ? M_R | M_RDHUP : 0);
    default:
        if (rd && wr)
            mask |= M_HUP;
        if (rd)
            mask |= M_R | M_RDHUP;
        if (s->rx_bytes > 0)
            mask |= M_R;
        if (wr || writable(s))
            mask |= M_W;
        return mask;
    }
}

void stream_forget(struct tcp_pcb *pcb)
{
    tcp_arg(pcb, NULL);
    tcp_recv(pcb, NULL);
    tcp_sent(pcb, NULL);
    tcp_err(pcb, NULL);
    tcp_poll(pcb, NULL, 0);
}

static void let_go(struct sock *s)
{
    if (s->pcb.tcp != NULL)
        stream_forget(s->pcb.tcp);
    s->pcb.tcp = NULL;
}

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
    struct sock *s = arg;
    LWIP_UNUSED_ARG(err);
    if (p == NULL) {
        s->fin = 1;
        /* It came with the segment that made the connection, to which on_accept() answered
         * with ours: lwIP makes CLOSE_WAIT of that, and would send no more. */
        if (s->fin_sent && pcb->state == CLOSE_WAIT)
            pcb->state = CLOSING;
        /* The last thing that concerns us, when our own side has ended; a kernel's socket
         * is in TCP_CLOSE then, too. */
        if (s->fin_sent && (pcb->state == TIME_WAIT || pcb->state == CLOSING)) {
            let_go(s);
            s->state = S_DEAD;
        }
        sock_touch(s, 1);
        return ERR_OK;
    }
    if (s->shut_rd && s->fin_sent) {
        /* tcp_rcv_state_process(): nobody will read this, the peer must know. */
        pbuf_free(p);
        let_go(s);
        s->state = S_DEAD;
        s->error = ECONNRESET;
        sock_touch(s, 1);
        tcp_abort(pcb);
        return ERR_ABRT;
    }
    /* Every second segment is acknowledged at once; one as long as two counts as such, or
     * a small send buffer would be empty until the timer runs. */
    if (p->tot_len > TCP_MSS)
        tcp_ack_now(pcb);
    stream_queue_data(s, p);
    sock_touch(s, 1);
    return ERR_OK;
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
    struct sock *s = arg;
    LWIP_UNUSED_ARG(pcb);
    LWIP_UNUSED_ARG(len);
    s->blocked = 0;
    sock_touch(s, 0);
    return ERR_OK;
}

static err_t on_poll(void *arg, struct tcp_pcb *pcb)
{
    struct sock *s = arg;
    LWIP_UNUSED_ARG(pcb);
    if (s->blocked) {
        s->blocked = 0;
        sock_touch(s, 0);
    }
    return ERR_OK;
}

static void on_error(void *arg, err_t err)
{
    struct sock *s = arg;
    s->pcb.tcp = NULL;
    if (s->state == S_CONNECTING || (s->state == S_CONNECTED && !s->fin_sent))
        stats_broken(s->state == S_CONNECTING);
    if (err == ERR_RST) {
        if (s->state == S_CONNECTING)
            s->error = ECONNREFUSED;
        else
            /* tcp_reset(): in CLOSE_WAIT it is EPIPE. */
            s->error = s->fin && !s->fin_sent ? EPIPE : ECONNRESET;
    } else if (err != ERR_CLSD) {
        s->error = ETIMEDOUT;
    }
    s->state = S_DEAD;
    sock_touch(s, 1);
}

/* What the stack sends to itself meets no mtu: longer segments cost less for each byte.
 * A quarter of the window, which is told in units of two bytes: so it is filled by whole
 * segments but for a remainder that the window probe fills. */
void stream_lengthen_segments(struct tcp_pcb *pcb)
{
    if (!nets_is_inside(&pcb->local_ip, &pcb->remote_ip, pcb->netif_idx))
        return;
    pcb->mss = TCP_WND / 4;
    pcb->cwnd = LWIP_MAX(pcb->cwnd, (tcpwnd_size_t)pcb->mss * 2);
}

void stream_adopt(struct sock *s, struct tcp_pcb *pcb)
{
    s->pcb.tcp = pcb;
    tcp_arg(pcb, s);
    tcp_recv(pcb, on_recv);
    tcp_sent(pcb, on_sent);
    tcp_err(pcb, on_error);
    tcp_poll(pcb, on_poll, 2);
    if (s->sndbuf != TCP_SND_BUF)
        pcb->snd_buf = (tcpwnd_size_t)s->sndbuf;
    stream_apply(s);
}

void stream_apply(struct sock *s)
{
    struct tcp_pcb *pcb = s->pcb.tcp;
    if (pcb == NULL)
        return;
    pcb->ttl = s->ttl;
    pcb->tos = s->tos;
    pcb->netif_idx = s->device;
    if (s->reuse)
        ip_set_option(pcb, SOF_REUSEADDR);
    else
        ip_reset_option(pcb, SOF_REUSEADDR);
    if (s->state == S_LISTEN)
        return;
    if (s->keepalive)
        ip_set_option(pcb, SOF_KEEPALIVE);
    else
        ip_reset_option(pcb, SOF_KEEPALIVE);
    pcb->keep_idle = s->keep_idle * 1000;
    pcb->keep_intvl = s->keep_intvl * 1000;
    pcb->keep_cnt = s->keep_cnt;
    if (s->nodelay) {
        tcp_nagle_disable(pcb);
        if (s->state == S_CONNECTED)
            tcp_output(pcb);
    } else {
        tcp_nagle_enable(pcb);
    }
}

int64_t stream_set_sndbuf(struct sock *s, int64_t value)
{
    struct tcp_pcb *pcb = s->state == S_LISTEN ? NULL : s->pcb.tcp;
    size_t wanted = (size_t)(value < SNDBUF_LOW ? SNDBUF_LOW
                             : value > SNDBUF_HIGH ? SNDBUF_HIGH : value);
    if (pcb == NULL) {
        s->sndbuf = wanted;
    } else if (wanted >= s->sndbuf) {
        pcb->snd_buf += (tcpwnd_size_t)(wanted - s->sndbuf);
        s->sndbuf = wanted;
    } else {
        /* What is in use cannot be taken away. */
        size_t less = LWIP_MIN(s->sndbuf - wanted, (size_t)pcb->snd_buf);
        pcb->snd_buf -= (tcpwnd_size_t)less;
        s->sndbuf -= less;
    }
    return (int64_t)s->sndbuf;
}

int stream_create(struct sock *s)
{
    struct tcp_pcb *pcb = tcp_new_ip_type(s->v6 ? IPADDR_TYPE_ANY : IPADDR_TYPE_V4);
    if (pcb == NULL)
        return -ENOMEM;
    stream_adopt(s, pcb);
    ip_addr_copy(s->local, pcb->local_ip);
    return 0;
}

void stream_close(struct sock *s)
{
    struct tcp_pcb *pcb = s->pcb.tcp;
    stream_drop_queue(s);
    s->pcb.tcp = NULL;
    if (pcb == NULL)
        return;
    if (s->state == S_LISTEN) {
        tcp_arg(pcb, NULL);
        tcp_accept(pcb, NULL);
        tcp_close(pcb);
        return;
    }
    stream_forget(pcb);
    /* tcp_close() of the kernel: a reset tells the peer that data was lost. */
    if (s->state == S_CONNECTED && (s->rx_bytes > 0 || (s->linger_on && s->linger_seconds == 0)))
        tcp_abort(pcb);
    else
        tcp_close(pcb);
}

/* Connections whose peers have not acknowledged all data, and the end. */
int stream_unfinished(void)
{
    int count = 0;
    for (const struct tcp_pcb *pcb = tcp_active_pcbs; pcb != NULL; pcb = pcb->next)
        if (pcb->state != SYN_SENT && pcb->state != SYN_RCVD
            && (pcb->unsent != NULL || pcb->unacked != NULL || pcb->flags & TF_CLOSEPEND))
            count++;
    return count;
}

void stream_kill(struct sock *s, int error)
{
    struct tcp_pcb *pcb = s->pcb.tcp;
    stream_drop_queue(s);
    s->pcb.tcp = NULL;
    if (pcb != NULL && s->state == S_LISTEN) {
        tcp_arg(pcb, NULL);
        tcp_accept(pcb, NULL);
        tcp_close(pcb);
    } else if (pcb != NULL) {
        stream_forget(pcb);
        tcp_abort(pcb);
    }
    if (s->state != S_DEAD || !s->error)
        s->error = error;
    s->state = S_DEAD;
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct sock *s = arg;
    LWIP_UNUSED_ARG(err);
    s->state = S_CONNECTED;
    stream_lengthen_segments(pcb);
    ip_addr_copy(s->local, pcb->local_ip);
    s->local_port = pcb->local_port;
    sock_touch(s, 1);
    return ERR_OK;
}

/* Back to TCP_CLOSE with what bind() had fixed, as tcp_disconnect() does. */
static void disconnect(struct sock *s)
{
    struct tcp_pcb *pcb = s->pcb.tcp;
    s->pcb.tcp = NULL;
    if (pcb != NULL) {
        stream_forget(pcb);
        tcp_close(pcb);
    }
    s->state = S_NEW;
    s->fin = s->fin_sent = s->shut_rd = s->shut_wr = s->blocked = 0;
    stream_drop_data(s);
    if (core_is_open() && stream_create(s) == 0 && s->bound) {
        ip_addr_t ip;
        u16_t port = s->local_port;
        ip_addr_copy(ip, s->local);
        s->bound = 0;
        stream_bind(s, &ip, port);
    }
}

int stream_connect(struct sock *s, const ip_addr_t *ip, u16_t port)
{
    struct tcp_pcb *pcb = s->pcb.tcp;
    struct netif *netif;
    err_t err;
    int result;
    switch (s->state) {
    case S_LISTEN:
        return -EISCONN;
    case S_CONNECTING:
        return -EALREADY;
    case S_CONNECTED:
        if (s->told)
            return -EISCONN;
        s->told = 1;
        return 0;
    case S_DEAD: {
        int error;
        if (s->told)
            return -EISCONN;
        if (s->disconnecting)
            return -EINVAL;
        error = s->error ? sock_take_error(s) : ECONNABORTED;
        disconnect(s);
        return -error;
    }
    default:
        break;
    }
    if (pcb == NULL)
        return -ENETDOWN;
    if ((result = sock_check_target(s, ip)) < 0)
        return result;
    if (ip_addr_ismulticast(ip) || nets_is_broadcast(ip))
        return -ENETUNREACH;
    if ((result = route_choose(s->device, &pcb->local_ip, ip, &netif)) < 0)
        return result;
    /* tcp_connect() would take the first address of the interface. */
    if (s->device && IP_IS_V4(ip) && ip_addr_isany(&pcb->local_ip))
        ip_addr_copy_from_ip4(pcb->local_ip, *netif_ip4_addr(netif));
    stream_replace_time_wait(pcb->local_port, ip, port);
    err = tcp_connect(pcb, ip, port, on_connected);
    if (err != ERR_OK) {
        /* The remote address stays behind in the block. */
        disconnect(s);
        return err == ERR_USE ? -EADDRNOTAVAIL : err == ERR_BUF ? -EADDRNOTAVAIL : -errno_of(err);
    }
    stats_connecting();
    s->state = S_CONNECTING;
    ip_addr_copy(s->local, pcb->local_ip);
    ip_addr_copy(s->remote, pcb->remote_ip);
    s->local_port = pcb->local_port;
    s->remote_port = port;
    return -EINPROGRESS;
}

/* tcp_shutdown(): states that have sent no FIN send one, also where shutdown() before the
 * connection has ended the direction already. */
void stream_send_fin(struct sock *s)
{
    if (s->pcb.tcp == NULL || s->fin_sent)
        return;
    s->fin_sent = 1;
    tcp_shutdown(s->pcb.tcp, 0, 1);
}

int stream_shutdown(struct sock *s, int how)
{
    int rd = how != 1, wr = how != 0;
    switch (s->state) {
    case S_DEAD:
        /* inet_shutdown(): SS_DISCONNECTING, for a connect() that nobody asked about. */
        s->disconnecting |= !s->told;
        /* fall through */
    case S_NEW:
        s->shut_rd |= rd;
        s->shut_wr |= wr;
        sock_touch(s, 1);
        return -ENOTCONN;
    case S_LISTEN:
        if (rd) {
            struct tcp_pcb *pcb = s->pcb.tcp;
            stream_drop_queue(s);
            tcp_arg(pcb, NULL);
            tcp_accept(pcb, NULL);
            s->pcb.tcp = NULL;
            tcp_close(pcb);
            disconnect(s);
            sock_touch(s, 1);
        }
        return 0;
    case S_CONNECTING:
        disconnect(s);
        s->error = ECONNRESET;
        sock_touch(s, 1);
        return 0;
    default:
        break;
    }
    s->told = 1;
    s->shut_rd |= rd;
    s->shut_wr |= wr;
    if (wr)
        stream_send_fin(s);
    sock_touch(s, 1);
    return 0;
}

void stream_unreachable(const ip_addr_t *local, u16_t local_port, const ip_addr_t *remote,
                        u16_t remote_port, u32_t seqno, int error)
{
    struct tcp_pcb *pcb = tcp_active_pcbs;
    LWIP_UNUSED_ARG(local);
    for (; pcb != NULL; pcb = pcb->next) {
        struct sock *s = pcb->callback_arg;
        if (pcb->state != SYN_SENT || s == NULL || pcb->local_port != local_port
            || pcb->remote_port != remote_port || seqno != pcb->lastack
            || IP_GET_TYPE(&pcb->remote_ip) != IP_GET_TYPE(remote))
            continue;
        if (!(IP_IS_V6(remote) ? ip6_addr_cmp_zoneless(ip_2_ip6(&pcb->remote_ip),
                                                       ip_2_ip6(remote))
                               : ip_addr_cmp(&pcb->remote_ip, remote)))
            continue;
        let_go(s);
        s->state = S_DEAD;
        s->error = error;
        sock_touch(s, 1);
        tcp_abandon(pcb, 0);
        return;
    }
}

/* The link has room again: send what it had refused. */
void stream_push(void)
{
    for (struct tcp_pcb *pcb = tcp_active_pcbs; pcb != NULL && !links_full(); pcb = pcb->next)
        if (pcb->flags & (TF_NAGLEMEMERR | TF_ACK_NOW))
            tcp_output(pcb);
}

/* Memory is lwIP's only limit, and TIME-WAIT lasts two minutes: the oldest go first. */
void stream_trim_time_wait(void)
{
    struct tcp_pcb *pcb = tcp_tw_pcbs;
    for (int i = 0; pcb != NULL && i < TIME_WAIT_LIMIT; i++)
        pcb = pcb->next;
    while (pcb != NULL) {
        struct tcp_pcb *next = pcb->next;
        tcp_abort(pcb);
        pcb = next;
    }
}
