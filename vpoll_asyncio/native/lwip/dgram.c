/* UDP sockets over lwIP's raw interface, with a queue of datagrams each. */

#include "shim.h"
#include "lwip/icmp.h"
#include "lwip/prot/udp.h"

static void store_names(struct sock *s)
{
    ip_addr_copy(s->local, s->pcb.udp->local_ip);
    s->local_port = s->pcb.udp->local_port;
}

/* __ip4_datagram_connect(): the address that the route uses is the socket's from then on. */
static void fix_local(struct sock *s, struct netif *netif)
{
    ip_addr_t *local = &s->pcb.udp->local_ip;
    const ip_addr_t *ip = ip_netif_get_local_ip(netif, &s->remote);
    if (ip_addr_isany(local) && ip != NULL)
        ip_addr_copy(*local, *ip);
}

/* Whether there is no room where the latest datagram was to go, or nowhere. */
static int is_refused(const struct sock *s)
{
    const struct iface *it = s->refused_by ? iface_by_index(s->refused_by) : NULL;
    return (it != NULL && link_full(it)) || links_full();
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
    if (s->state == S_DEAD || !is_refused(s))
        mask |= M_W | M_WRBAND;
    return mask;
}

/* Answer as udp_input() does when no block is there for a datagram. */
static void refuse(struct pbuf *p)
{
    if (!ip_addr_ismulticast(ip_current_dest_addr()) && !nets_is_broadcast(ip_current_dest_addr())
        && pbuf_header_force(p, (s16_t)(ip_current_header_tot_len() + UDP_HLEN)) == 0)
        icmp_port_unreach(ip_current_is_v6(), p);
    pbuf_free(p);
}

/* Queue `p`, which is the queue's from then on; returns whether there was room. */
int dgram_push(struct sock *s, struct pbuf *p, const ip_addr_t *addr, u16_t port)
{
    struct dgram *d;
    /* An empty datagram costs something too, or they would pile up without bound. */
    if (s->dg_bytes + p->tot_len + sizeof *d > s->rcvbuf || (d = malloc(sizeof *d)) == NULL) {
        pbuf_free(p);
        return 0;
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
    return 1;
}

/* __udp_is_mcast_sock() */
static int shares(const struct sock *s, const ip_addr_t *addr, u16_t port)
{
    const ip_addr_t *local = &s->pcb.udp->local_ip, *dest = ip_current_dest_addr();
    if (s->device && s->device != netif_get_index(ip_current_input_netif()))
        return 0;
    if (!IP_IS_ANY_TYPE_VAL(*local)
        && (IP_IS_V6(local) != IP_IS_V6(dest)
            || !(ip_addr_isany(local) || sock_same_ip(local, dest))))
        return 0;
    if (s->state == S_CONNECTED
        && (!sock_same_ip(addr, &s->remote) || (s->remote_port && s->remote_port != port)))
        return 0;
    return mcast_hears(s, dest, ip_current_input_netif());
}

static void on_datagram(void *arg, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *addr,
                        u16_t port);

/* __udp4_lib_mcast_deliver(): what is sent to many is for each socket that has the port.
 * lwIP finds one of them. */
static void fan_out(u16_t local_port, struct pbuf *p, const ip_addr_t *addr, u16_t port)
{
    for (struct udp_pcb *pcb = udp_pcbs; pcb != NULL; pcb = pcb->next) {
        if (pcb->recv != on_datagram || pcb->local_port != local_port
            || !shares(pcb->recv_arg, addr, port))
            continue;
        pbuf_ref(p);
        stats_datagram(ip_current_is_v6(), dgram_push(pcb->recv_arg, p, addr, port));
    }
    pbuf_free(p);
}

static void on_datagram(void *arg, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *addr,
                        u16_t port)
{
    struct sock *s = arg;
    if (ip_addr_ismulticast(ip_current_dest_addr()) || nets_is_broadcast(ip_current_dest_addr()))
        fan_out(pcb->local_port, p, addr, port);
    else if (s->state == S_CONNECTED && s->remote_port == 0 && !ip_addr_cmp(addr, &s->remote))
        refuse(p);
    else
        stats_datagram(ip_current_is_v6(), dgram_push(s, p, addr, port));
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
    pcb->mcast_ttl = s->mc_ttl;
    pcb->tos = s->tos;
    pcb->netif_idx = s->device;
    if (s->reuse)
        ip_set_option(pcb, SOF_REUSEADDR);
    else
        ip_reset_option(pcb, SOF_REUSEADDR);
}

void dgram_close(struct sock *s)
{
    mcast_leave_all(s);
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

/* inet_rcv_saddr_equal(): a port that another interface's socket has is free for this one's;
 * udp_bind() knows nothing of that. */
static struct udp_pcb *hidden;

static void hide_others(const struct sock *s, u16_t port)
{
    struct udp_pcb **at = &udp_pcbs;
    while (*at != NULL) {
        struct udp_pcb *pcb = *at;
        if (!port || !s->device || !pcb->netif_idx || pcb->netif_idx == s->device
            || pcb->local_port != port) {
            at = &pcb->next;
            continue;
        }
        *at = pcb->next;
        pcb->next = hidden;
        hidden = pcb;
    }
}

static void show_others(void)
{
    while (hidden != NULL) {
        struct udp_pcb *pcb = hidden;
        hidden = pcb->next;
        pcb->next = udp_pcbs;
        udp_pcbs = pcb;
    }
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
    hide_others(s, port);
    err = udp_bind(s->pcb.udp, ip, port);
    show_others();
    if (err != ERR_OK)
        return -errno_of(err);
    s->bound = 1;
    store_names(s);
    return 0;
}

/* inet_autobind(): whoever sends or connects has a port, even if that fails. */
int dgram_autobind(struct sock *s)
{
    if (s->bound || s->pcb.udp == NULL)
        return 0;
    if (udp_bind(s->pcb.udp, s->v6only ? IP6_ADDR_ANY : &s->pcb.udp->local_ip, 0) != ERR_OK)
        return -EAGAIN;
    s->bound = 1;
    store_names(s);
    return 0;
}

int dgram_connect(struct sock *s, const ip_addr_t *ip, u16_t port)
{
    struct netif *netif;
    err_t err = ERR_OK;
    int result;
    if (s->pcb.udp == NULL)
        return -ENETDOWN;
    if ((result = sock_check_target(s, ip)) < 0)
        return result;
    if (nets_is_broadcast(ip) && !s->broadcast)
        return -EACCES;
    if ((result = route_choose(s->device, &s->pcb.udp->local_ip, ip, &netif)) < 0)
        return result;
    /* __udp4_lib_lookup(): port 0 stands for every port of the peer, which lwIP cannot say;
     * on_datagram() knows who that is. */
    if (port == 0)
        udp_disconnect(s->pcb.udp);
    else
        err = udp_connect(s->pcb.udp, ip, port);
    if (err != ERR_OK)
        return -errno_of(err);
    s->state = S_CONNECTED;
    ip_addr_copy(s->remote, *ip);
    s->remote_port = port;
    fix_local(s, netif);
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

/* udp_sendto() knows the socket's choice of an interface not as ip_mc_output() does. */
static err_t put_out_to_group(struct sock *s, struct pbuf *p, const ip_addr_t *to, u16_t port,
                              struct netif *netif)
{
    struct udp_pcb *pcb = s->pcb.udp;
    ip_addr_t local, source, group;
    const ip_addr_t *own;
    err_t err;
    ip_addr_copy(local, pcb->local_ip);
    ip_addr_copy(group, *to);
    if (IP_IS_V6_VAL(group)) {
        ip6_addr_clear_zone(ip_2_ip6(&group));
        ip6_addr_assign_zone(ip_2_ip6(&group), IP6_MULTICAST, netif);
    }
    own = &local;
    if (ip_addr_isany(own) || IP_IS_V6(own) != IP_IS_V6(to) || ip_addr_ismulticast(own)
        || nets_is_broadcast(own))
        own = ip_netif_get_local_ip(netif, &group);
    if (own == NULL)
        return ERR_RTE;
    ip_addr_copy(source, *own);
    /* What goes out through the loopback comes back without another copy. */
    if (s->mc_loop && netif != nets_loopback())
        udp_set_flags(pcb, UDP_FLAGS_MULTICAST_LOOP);
    else
        udp_clear_flags(pcb, UDP_FLAGS_MULTICAST_LOOP);
    if (IP_IS_V6_VAL(local) != IP_IS_V6(to))
        ip_addr_copy(pcb->local_ip, ip_addr_any_type);
    err = udp_sendto_if_src(pcb, p, &group, port, netif, &source);
    ip_addr_copy(pcb->local_ip, local);
    return err;
}

/* udp_sendto() would send from an interface's own address only; a host with several may
 * send from any of them, through any interface. */
static err_t put_out(struct sock *s, struct pbuf *p, const ip_addr_t *to, u16_t port,
                     struct netif *netif)
{
    struct udp_pcb *pcb = s->pcb.udp;
    const ip_addr_t *source;
    ip_addr_t local;
    err_t err;
    if (ip_addr_ismulticast(to))
        return put_out_to_group(s, p, to, port, netif);
    ip_addr_copy(local, pcb->local_ip);
    if (!s->device && (ip_addr_isany(&local) || ip_addr_ismulticast(&local)))
        return udp_sendto(pcb, p, to, port);
    if (ip_addr_isany(&local) || ip_addr_ismulticast(&local)) {
        source = ip_netif_get_local_ip(netif, to);
        return source != NULL ? udp_sendto_if_src(pcb, p, to, port, netif, source) : ERR_RTE;
    }
    if (IP_IS_V6(&local) == IP_IS_V6(to))
        return udp_sendto_if_src(pcb, p, to, port, netif, &local);
    /* udpv6_sendmsg(): who got an IPv6 address by connect() may still name an IPv4 one. */
    ip_addr_copy(pcb->local_ip, ip_addr_any_type);
    err = udp_sendto(pcb, p, to, port);
    ip_addr_copy(pcb->local_ip, local);
    return err;
}

int64_t dgram_send(struct sock *s, const char *data, size_t size, const ip_addr_t *to, u16_t port)
{
    int result, named = to != NULL;
    struct netif *netif;
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
    /* A packet of lwIP has 16 bits for its length, with its header. */
    if (size > (IP_IS_V6(to) ? 65487u : 65507u))
        return -EMSGSIZE;
    /* Only who has named it is refused, or whom udpv6_sendmsg() takes for such. */
    if (port == 0 && (named || (s->v6 && IP_IS_V4(to))))
        return -EINVAL;
    if ((result = sock_check_target(s, to)) < 0)
        return result;
    if (nets_is_broadcast(to) && !s->broadcast)
        return -EACCES;
    if (s->error)
        return -sock_take_error(s);
    if (s->shut_wr)
        return -EPIPE;
    if ((result = mcast_route(s, &s->pcb.udp->local_ip, to, &netif)) < 0)
        return result;
    s->refused_by = 0;
    if (iface_of(netif) != NULL && link_full(iface_of(netif))) {
        s->refused_by = netif_get_index(iface_of(netif)->first);
        return -EAGAIN;
    }
    p = pbuf_alloc(PBUF_TRANSPORT, (u16_t)size, PBUF_RAM);
    if (p == NULL)
        return -ENOBUFS;
    if (size)
        pbuf_take(p, data, (u16_t)size);
    err = put_out(s, p, to, port, netif);
    pbuf_free(p);
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
        if (s->stream || s->packet || s->state != S_CONNECTED || s->local_port != local_port
            || (s->remote_port != 0 && s->remote_port != remote_port)
            || IP_GET_TYPE(&s->remote) != IP_GET_TYPE(remote))
            continue;
        if (IP_IS_V6(remote) ? ip6_addr_cmp_zoneless(ip_2_ip6(&s->remote), ip_2_ip6(remote))
                             : ip_addr_cmp(&s->remote, remote)) {
            s->error = error;
            sock_touch(s, 1);
        }
    }
}
