/* UDP sockets over lwIP's raw interface, with a queue of datagrams each. */

#include "shim.h"

static void store_names(struct sock *s)
{
    s->local_port = s->pcb.udp->local_port;
    if (s->state == S_CONNECTED && ip_addr_isany(&s->pcb.udp->local_ip)) {
        /* getsockname() names the address that the route would use. */
        struct netif *netif = ip_route(&s->pcb.udp->local_ip, &s->pcb.udp->remote_ip);
        const ip_addr_t *ip = netif != NULL
            ? ip_netif_get_local_ip(netif, &s->pcb.udp->remote_ip) : NULL;
        if (ip != NULL) {
            ip_addr_copy(s->local, *ip);
            return;
        }
    }
    ip_addr_copy(s->local, s->pcb.udp->local_ip);
}

uint32_t dgram_mask(const struct sock *s)
{
    uint32_t mask = 0;
    int rd = s->shut_rd || s->state == S_DEAD, wr = s->shut_wr || s->state == S_DEAD;
    if (s->error)
        mask |= M_ERR;
    if (rd)
        mask |= M_R | M_RDHUP;
    if (rd && wr)
        mask |= M_HUP;
    if (s->dg_head != NULL)
        mask |= M_R;
    if (s->state == S_DEAD || !link_full())
        mask |= M_W | M_WRBAND;
    return mask;
}

static void on_datagram(void *arg, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *addr,
                        u16_t port)
{
    struct sock *s = arg;
    struct dgram *d;
    LWIP_UNUSED_ARG(pcb);
    /* An empty datagram costs something too, or they would pile up without bound. */
    if (s->dg_bytes + p->tot_len + sizeof *d > s->rcvbuf || (d = malloc(sizeof *d)) == NULL) {
        pbuf_free(p);
        return;
    }
    d->next = NULL;
    d->p = p;
    ip_addr_copy(d->addr, *addr);
    d->port = port;
    if (s->dg_head == NULL)
        s->dg_head = d;
    else
        s->dg_tail->next = d;
    s->dg_tail = d;
    s->dg_bytes += p->tot_len + sizeof *d;
    sock_touch(s, 1);
}

int dgram_create(struct sock *s)
{
    s->pcb.udp = udp_new_ip_type(s->v6 ? IPADDR_TYPE_ANY : IPADDR_TYPE_V4);
    if (s->pcb.udp == NULL)
        return -ENOMEM;
    udp_recv(s->pcb.udp, on_datagram, s);
    dgram_apply(s);
    ip_addr_copy(s->local, s->pcb.udp->local_ip);
    return 0;
}

void dgram_apply(struct sock *s)
{
    struct udp_pcb *pcb = s->pcb.udp;
    if (pcb == NULL)
        return;
    pcb->ttl = s->ttl;
    pcb->tos = s->tos;
    if (s->reuse)
        ip_set_option(pcb, SOF_REUSEADDR);
    else
        ip_reset_option(pcb, SOF_REUSEADDR);
}

void dgram_close(struct sock *s)
{
    if (s->pcb.udp != NULL)
        udp_remove(s->pcb.udp);
    s->pcb.udp = NULL;
}

void dgram_kill(struct sock *s, int error)
{
    dgram_close(s);
    s->state = S_DEAD;
    s->error = error;
}

int dgram_bind(struct sock *s, const ip_addr_t *ip, u16_t port)
{
    err_t err;
    if (s->pcb.udp == NULL)
        return -ENETDOWN;
    if (s->bound)
        return -EINVAL;
    if (s->v6 && IP_IS_V6(ip) && ip_addr_isany(ip) && !s->v6only)
        ip = IP_ANY_TYPE;
    err = udp_bind(s->pcb.udp, ip, port);
    if (err != ERR_OK)
        return -errno_of(err);
    s->bound = 1;
    store_names(s);
    return 0;
}

int dgram_connect(struct sock *s, const ip_addr_t *ip, u16_t port)
{
    err_t err;
    if (s->pcb.udp == NULL)
        return -ENETDOWN;
    if (nets_is_broadcast(ip) && !s->broadcast)
        return -EACCES;
    if (ip_route(&s->pcb.udp->local_ip, ip) == NULL)
        return -ENETUNREACH;
    err = udp_connect(s->pcb.udp, ip, port);
    if (err != ERR_OK)
        return err == ERR_USE ? -EAGAIN : -errno_of(err);
    s->state = S_CONNECTED;
    s->bound = 1;
    ip_addr_copy(s->remote, s->pcb.udp->remote_ip);
    s->remote_port = port;
    store_names(s);
    return 0;
}

int dgram_shutdown(struct sock *s, int how)
{
    /* inet_shutdown(): without a connection it fails, and yet wakes and marks. */
    s->shut_rd |= how != 1;
    s->shut_wr |= how != 0;
    sock_touch(s, 1);
    return s->state == S_CONNECTED ? 0 : -ENOTCONN;
}

int64_t dgram_recv(struct sock *s, char *out, size_t size, int flags, struct vp_addr *from)
{
    struct dgram *d = s->dg_head;
    int64_t result;
    if (s->error)
        return -sock_take_error(s);
    if (d == NULL) {
        /* __skb_recv_udp(): who would wait is told the end, who would not, EAGAIN. */
        if (s->state == S_DEAD || (s->shut_rd && flags & VP_WAIT))
            return 0;
        return -EAGAIN;
    }
    result = pbuf_copy_partial(d->p, out, (u16_t)LWIP_MIN(size, 0xffffu), 0);
    if (flags & VP_TRUNC)
        result = d->p->tot_len;
    sock_from_ip(s, &d->addr, d->port, from);
    if (!(flags & VP_PEEK)) {
        s->dg_head = d->next;
        if (s->dg_head == NULL)
            s->dg_tail = NULL;
        s->dg_bytes -= d->p->tot_len + sizeof *d;
        pbuf_free(d->p);
        free(d);
    }
    return result;
}

int64_t dgram_send(struct sock *s, const char *data, size_t size, const ip_addr_t *to, u16_t port)
{
    struct pbuf *p;
    err_t err;
    if (s->state == S_DEAD)
        return s->error ? -sock_take_error(s) : -EPIPE;
    if (to == NULL && s->state != S_CONNECTED)
        return -EDESTADDRREQ;
    if (to == NULL) {
        to = &s->remote;
        port = s->remote_port;
    }
    if (size > (IP_IS_V6(to) ? 65527u : 65507u))
        return -EMSGSIZE;
    if (port == 0)
        return -EINVAL;
    if (nets_is_broadcast(to) && !s->broadcast)
        return -EACCES;
    if (s->error)
        return -sock_take_error(s);
    if (s->shut_wr)
        return -EPIPE;
    if (link_full())
        return -EAGAIN;
    p = pbuf_alloc(PBUF_TRANSPORT, (u16_t)size, PBUF_RAM);
    if (p == NULL)
        return -ENOBUFS;
    if (size)
        pbuf_take(p, data, (u16_t)size);
    err = udp_sendto(s->pcb.udp, p, to, port);
    pbuf_free(p);
    if (!s->bound && s->pcb.udp->local_port) {
        s->bound = 1;
        store_names(s);
    }
    /* A frame that found no room after all is lost, as datagrams may be. */
    if (err != ERR_OK && err != ERR_MEM)
        return -errno_of(err);
    return (int64_t)size;
}

void dgram_unreachable(const ip_addr_t *local, u16_t local_port, const ip_addr_t *remote,
                       u16_t remote_port, int error)
{
    size_t cursor = 0;
    struct sock *s;
    LWIP_UNUSED_ARG(local);
    while ((s = sock_each(&cursor)) != NULL) {
        if (s->stream || s->state != S_CONNECTED || s->local_port != local_port
            || s->remote_port != remote_port || IP_GET_TYPE(&s->remote) != IP_GET_TYPE(remote))
            continue;
        if (IP_IS_V6(remote) ? ip6_addr_cmp_zoneless(ip_2_ip6(&s->remote), ip_2_ip6(remote))
                             : ip_addr_cmp(&s->remote, remote)) {
            s->error = error;
            sock_touch(s, 1);
        }
    }
}
