/* What TCP sockets have received and are to send. */

#include "shim.h"
#include "lwip/priv/tcp_priv.h"

void stream_drop_data(struct sock *s)
{
    if (s->rx_head != NULL)
        pbuf_free(s->rx_head);
    s->rx_head = s->rx_tail = NULL;
    s->rx_off = 0;
    s->rx_bytes = 0;
}

void stream_queue_data(struct sock *s, struct pbuf *p)
{
    s->rx_bytes += p->tot_len;
    if (s->rx_head == NULL)
        s->rx_head = p;
    else
        s->rx_tail->next = p;
    while (p->next != NULL)
        p = p->next;
    s->rx_tail = p;
}

static size_t copy_out(struct sock *s, char *out, size_t size, int peek)
{
    struct pbuf *p = s->rx_head;
    size_t done = 0, at = s->rx_off;
    while (p != NULL && done < size) {
        size_t n = LWIP_MIN((size_t)p->len - at, size - done);
        memcpy(out + done, (const char *)p->payload + at, n);
        done += n;
        at += n;
        if (at < p->len)
            break;
        at = 0;
        p = p->next;
        if (!peek) {
            s->rx_head->next = NULL;
            pbuf_free(s->rx_head);
            s->rx_head = p;
        }
    }
    if (!peek) {
        s->rx_off = (u16_t)at;
        s->rx_bytes -= done;
        if (s->rx_head == NULL)
            s->rx_tail = NULL;
    }
    return done;
}

int stream_has_data(const struct sock *s)
{
    return s->state != S_LISTEN && s->rx_bytes > 0;
}

int64_t stream_recv(struct sock *s, char *out, size_t size, int flags)
{
    if (s->state == S_LISTEN)
        return -ENOTCONN;
    if (s->rx_bytes > 0) {
        size_t n = copy_out(s, out, size, flags & VP_PEEK);
        if (s->pcb.tcp != NULL && !(flags & VP_PEEK))
            for (size_t left = n; left > 0;) {
                u16_t part = (u16_t)LWIP_MIN(left, 0xffffu);
                tcp_recved(s->pcb.tcp, part);
                left -= part;
            }
        return (int64_t)n;
    }
    if (s->fin)
        return 0;
    if (s->error)
        return -sock_take_error(s);
    if (stream_receiving_ended(s))
        return 0;
    if (s->state == S_NEW)
        return -ENOTCONN;
    return -EAGAIN;
}

/* lwIP cuts segments to half of the largest window seen and asserts that the last one
 * queued, with the room that it was given to grow, is no longer: a window that opens
 * late would make that false. */
static void fence_segment_size(struct tcp_pcb *pcb)
{
    const struct tcp_seg *last = pcb->unsent;
    u32_t half = pcb->snd_wnd_max / 2, used;
    if (last == NULL)
        return;
    while (last->next != NULL)
        last = last->next;
    used = (u32_t)last->len + pcb->unsent_oversize;
    if (half != 0 && half < used)
        pcb->snd_wnd_max = used * 2;
}

int64_t stream_send(struct sock *s, const char *data, size_t size)
{
    struct tcp_pcb *pcb = s->pcb.tcp;
    size_t done = 0;
    if (s->error)
        return -sock_take_error(s);
    if (s->state == S_CONNECTING)
        return -EAGAIN;
    if (s->state != S_CONNECTED || s->shut_wr || pcb == NULL)
        return -EPIPE;
    if (size == 0)
        return 0;
    while (done < size) {
        size_t part = LWIP_MIN(size - done, LWIP_MIN((size_t)tcp_sndbuf(pcb), 0xffffu));
        err_t err = ERR_MEM;
        fence_segment_size(pcb);
        while (part > 0
               && (err = tcp_write(pcb, data + done, (u16_t)part, TCP_WRITE_FLAG_COPY)) == ERR_MEM)
            part /= 2;
        if (err != ERR_OK)
            break;
        done += part;
    }
    if (done > 0)
        tcp_output(pcb);
    else
        s->blocked = 1;
    return done > 0 ? (int64_t)done : -EAGAIN;
}
