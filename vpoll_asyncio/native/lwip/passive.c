/* The passive side of TCP: bind, listen, accept, and the backlog, which lwIP was built
 * without. */

#include "shim.h"
#include "lwip/priv/tcp_priv.h"

/* Connections that a listening socket may have between SYN and ACK. */
enum { HALF_OPEN_LIMIT = 1024 };

void stream_drop_queue(struct sock *s)
{
    while (s->aq_head != NULL) {
        struct sock *child = s->aq_head;
        struct tcp_pcb *pcb = child->pcb.tcp;
        s->aq_head = child->aq_next;
        child->pcb.tcp = NULL;
        if (pcb != NULL) {
            stream_forget(pcb);
            tcp_abort(pcb);
        }
        sock_free(child);
    }
    s->aq_tail = NULL;
    s->aq_len = 0;
}

static int overlap(const ip_addr_t *a, const ip_addr_t *b)
{
    if (IP_IS_ANY_TYPE_VAL(*a) || IP_IS_ANY_TYPE_VAL(*b))
        return 1;
    if (IP_GET_TYPE(a) != IP_GET_TYPE(b))
        return 0;
    return ip_addr_isany(a) || ip_addr_isany(b) || ip_addr_cmp(a, b);
}

/* inet_rcv_saddr_any_bind(): who is bound to one interface does not meet who is to another. */
static int apart(u32_t one, u32_t other)
{
    return one && other && one != other;
}

/* inet_csk_get_port(): SO_REUSEADDR on both shares a port, unless one listens. */
static int in_use(const struct sock *s, const ip_addr_t *ip, u16_t port)
{
    for (size_t i = 0; i < 4; i++) {
        const struct tcp_pcb *pcb = *tcp_pcb_lists[i];
        for (; pcb != NULL; pcb = pcb->next) {
            if (pcb->local_port != port || !overlap(ip, &pcb->local_ip)
                || apart(s->device, pcb->netif_idx))
                continue;
            if (pcb->state == LISTEN || !s->reuse || !ip_get_option(pcb, SOF_REUSEADDR))
                return 1;
        }
    }
    return 0;
}

/* tcp_bind() knows nothing of interfaces: it does not see the port of those that are bound to
 * another one meanwhile.  What is in the lists has a port. */
static void change_ports(const struct sock *s, u16_t from, u16_t to)
{
    for (size_t i = 0; i < 4; i++)
        for (struct tcp_pcb *pcb = *tcp_pcb_lists[i]; pcb != NULL; pcb = pcb->next)
            if (pcb->local_port == from && apart(s->device, pcb->netif_idx))
                pcb->local_port = to;
}

int stream_bind(struct sock *s, const ip_addr_t *ip, u16_t port)
{
    err_t err;
    if (s->bound || s->state != S_NEW || s->pcb.tcp == NULL)
        return -EINVAL;
    if (s->v6 && IP_IS_V6(ip) && ip_addr_isany(ip) && !s->v6only)
        ip = IP_ANY_TYPE;
    if (port && in_use(s, ip, port))
        return -EADDRINUSE;
    /* The check was ours: lwIP knows less about address families. */
    ip_set_option(s->pcb.tcp, SOF_REUSEADDR);
    if (port)
        change_ports(s, port, 0);
    err = tcp_bind(s->pcb.tcp, ip, port);
    if (port)
        change_ports(s, 0, port);
    stream_apply(s);
    if (err != ERR_OK)
        return err == ERR_BUF ? -EADDRINUSE : -errno_of(err);
    s->bound = 1;
    ip_addr_copy(s->local, s->pcb.tcp->local_ip);
    s->local_port = s->pcb.tcp->local_port;
    return 0;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct sock *s = arg, *child;
    if (s == NULL || pcb == NULL || err != ERR_OK)
        return ERR_VAL;
    if ((child = sock_new(s->v6, 1)) == NULL)
        return ERR_MEM;
    child->state = S_CONNECTED;
    child->told = child->bound = 1;
    child->v6only = s->v6only;
    child->reuse = s->reuse;
    child->keepalive = s->keepalive;
    child->nodelay = s->nodelay;
    child->linger_on = s->linger_on;
    child->linger_seconds = s->linger_seconds;
    child->keep_idle = s->keep_idle;
    child->keep_intvl = s->keep_intvl;
    child->keep_cnt = s->keep_cnt;
    child->ttl = s->ttl;
    child->tos = s->tos;
    child->sndbuf = s->sndbuf;
    child->device = s->device;
    child->listener = s;
    ip_addr_copy(child->local, pcb->local_ip);
    ip_addr_copy(child->remote, pcb->remote_ip);
    child->local_port = pcb->local_port;
    child->remote_port = pcb->remote_port;
    stream_lengthen_segments(pcb);
    stream_adopt(child, pcb);
    /* tcp_rcv_state_process(): what was shut down before listen() is inherited, with a FIN. */
    child->shut_rd = s->shut_rd;
    child->shut_wr = s->shut_wr;
    if (child->shut_wr)
        stream_send_fin(child);
    if (s->aq_head == NULL)
        s->aq_head = child;
    else
        s->aq_tail->aq_next = child;
    s->aq_tail = child;
    s->aq_len++;
    stats_connected();
    sock_touch(s, 1);
    return ERR_OK;
}

int stream_listen(struct sock *s, int backlog)
{
    struct tcp_pcb *listening;
    err_t err = ERR_OK;
    int result;
    if (backlog < 0 || backlog > 4096)
        backlog = 4096;
    if (s->state == S_LISTEN) {
        s->backlog = backlog;
        return 0;
    }
    if (s->state != S_NEW || s->pcb.tcp == NULL)
        return -EINVAL;
    if (!s->bound) {
        ip_addr_t any;
        memset(&any, 0, sizeof any);
        IP_SET_TYPE_VAL(any, s->v6 ? IPADDR_TYPE_V6 : IPADDR_TYPE_V4);
        if ((result = stream_bind(s, &any, 0)) < 0)
            return result;
    }
    /* lwIP checks this with SO_REUSEADDR only. */
    for (struct tcp_pcb *pcb = tcp_listen_pcbs.pcbs; pcb != NULL; pcb = pcb->next)
        if (pcb->local_port == s->local_port && overlap(&pcb->local_ip, &s->pcb.tcp->local_ip)
            && !apart(s->device, pcb->netif_idx))
            return -EADDRINUSE;
    ip_reset_option(s->pcb.tcp, SOF_REUSEADDR);
    listening = tcp_listen_with_backlog_and_err(s->pcb.tcp, 255, &err);
    if (listening == NULL) {
        stream_apply(s);
        return -errno_of(err);
    }
    s->pcb.tcp = listening;
    s->state = S_LISTEN;
    stream_apply(s);
    s->backlog = backlog;
    tcp_arg(listening, s);
    tcp_accept(listening, on_accept);
    return 0;
}

struct sock *stream_accept(struct sock *s, int *error)
{
    struct sock *child = s->aq_head;
    if (s->state != S_LISTEN) {
        *error = s->error == ENETDOWN ? sock_take_error(s) : EINVAL;
        return NULL;
    }
    if (child == NULL) {
        *error = EAGAIN;
        return NULL;
    }
    s->aq_head = child->aq_next;
    if (s->aq_head == NULL)
        s->aq_tail = NULL;
    s->aq_len--;
    child->aq_next = NULL;
    child->listener = NULL;
    return child;
}

static int queue_full(const struct sock *s)
{
    /* sk_acceptq_is_full(): one more than listen() was told. */
    return s->aq_len > s->backlog;
}

static int request_kept_out(const struct iface *it, const ip_addr_t *dest, u16_t port)
{
    struct tcp_pcb_listen *found = NULL;
    const struct sock *s;
    int half_open = 0;
    for (struct tcp_pcb_listen *l = tcp_listen_pcbs.listen_pcbs; l != NULL; l = l->next)
        if (l->local_port == port && overlap(dest, &l->local_ip)
            && (it == NULL || !apart(l->netif_idx, iface_index(it)))
            && (found == NULL || !ip_addr_isany(&l->local_ip)))
            found = l;
    if (found == NULL || (s = found->callback_arg) == NULL)
        return 0;
    if (queue_full(s))
        return 1;
    for (const struct tcp_pcb *pcb = tcp_active_pcbs; pcb != NULL; pcb = pcb->next)
        half_open += pcb->state == SYN_RCVD && pcb->listener == found;
    return half_open >= HALF_OPEN_LIMIT;
}

static int same_host(const ip_addr_t *a, const ip_addr_t *b)
{
    if (IP_IS_V6(a) != IP_IS_V6(b))
        return 0;
    return IP_IS_V6(a) ? ip6_addr_cmp_zoneless(ip_2_ip6(a), ip_2_ip6(b)) : ip_addr_cmp(a, b);
}

static struct tcp_pcb *find(struct tcp_pcb *pcb, const ip_addr_t *src, u16_t src_port,
                            const ip_addr_t *dest, u16_t dest_port)
{
    while (pcb != NULL
           && (pcb->remote_port != src_port || pcb->local_port != dest_port
               || !same_host(&pcb->remote_ip, src) || !same_host(&pcb->local_ip, dest)))
        pcb = pcb->next;
    return pcb;
}

/* Whether a segment is as far from what a connection waits for as sequence numbers can
 * be.  lwIP takes one of length 1 there for one that it waits for, and aborts. */
int stream_is_opposite(u32_t seqno, const ip_addr_t *src, u16_t src_port, const ip_addr_t *dest,
                       u16_t dest_port)
{
    const struct tcp_pcb *pcb = find(tcp_active_pcbs, src, src_port, dest, dest_port);
    return pcb != NULL && pcb->rcv_nxt - seqno == (u32_t)1 << 31;
}

static int completion_kept_out(const ip_addr_t *src, u16_t src_port, const ip_addr_t *dest,
                               u16_t dest_port)
{
    const struct tcp_pcb *pcb = find(tcp_active_pcbs, src, src_port, dest, dest_port);
    const struct sock *s = NULL;
    if (pcb != NULL && pcb->state == SYN_RCVD && pcb->listener != NULL)
        s = pcb->listener->callback_arg;
    return s != NULL && queue_full(s);
}

static int any_queue_full(void)
{
    for (const struct tcp_pcb_listen *l = tcp_listen_pcbs.listen_pcbs; l != NULL; l = l->next)
        if (l->callback_arg != NULL && queue_full(l->callback_arg))
            return 1;
    return 0;
}

/* tcp_timewait_state_process(): a request with a later sequence number ends TIME-WAIT at
 * once, and so does a reset in its place.  lwIP would keep a peer that uses its port
 * again out for two minutes. */
static void recycle_time_wait(unsigned flags, u32_t seqno, const ip_addr_t *src, u16_t src_port,
                              const ip_addr_t *dest, u16_t dest_port)
{
    struct tcp_pcb *pcb = find(tcp_tw_pcbs, src, src_port, dest, dest_port);
    if (pcb != NULL
        && (flags & TCP_RST ? seqno == pcb->rcv_nxt : TCP_SEQ_GT(seqno, pcb->rcv_nxt)))
        tcp_abort(pcb);
}

/* tcp_twsk_unique(): inside the host, who has the port may connect again at once. */
void stream_replace_time_wait(u16_t local_port, const ip_addr_t *remote, u16_t remote_port)
{
    for (struct tcp_pcb *pcb = tcp_tw_pcbs, *next; pcb != NULL; pcb = next) {
        next = pcb->next;
        if (pcb->local_port == local_port && pcb->remote_port == remote_port
            && same_host(&pcb->remote_ip, remote)
            && nets_is_inside(&pcb->local_ip, &pcb->remote_ip, pcb->netif_idx))
            tcp_abort(pcb);
    }
}

/* Whether a segment must be dropped, so that the peer tries again, because the accept
 * queue is full: a kernel does so with connection requests, and with the segment that
 * would complete a connection. */
int stream_keeps_out(const struct iface *it, unsigned flags, u32_t seqno, const ip_addr_t *src,
                     u16_t src_port, const ip_addr_t *dest, u16_t dest_port)
{
    if (flags & TCP_RST || (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
        recycle_time_wait(flags, seqno, src, src_port, dest, dest_port);
    if (flags & TCP_RST)
        return 0;
    if (flags & TCP_SYN)
        return !(flags & TCP_ACK) && request_kept_out(it, dest, dest_port);
    return any_queue_full() && completion_kept_out(src, src_port, dest, dest_port);
}
