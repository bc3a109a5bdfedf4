/* Shared by the files of the lwIP shim. */
#ifndef VP_SHIM_H
#define VP_SHIM_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "lwip/opt.h"
#include "lwip/err.h"
#include "lwip/ip.h"
#include "lwip/ip_addr.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/tcp.h"
#include "lwip/udp.h"

#include "api.h"

/* The host's poll bits, spelt out: not every libc has them all. */
#define M_IN     0x001u
#define M_OUT    0x004u
#define M_ERR    0x008u
#define M_HUP    0x010u
#define M_RDNORM 0x040u
#define M_WRNORM 0x100u
#define M_WRBAND 0x200u
#define M_RDHUP  0x2000u
#define M_R (M_IN | M_RDNORM)
#define M_W (M_OUT | M_WRNORM)

enum sock_state {
    S_NEW,          /* the kernel's TCP_CLOSE before any connection; any datagram socket */
    S_LISTEN,
    S_CONNECTING,
    S_CONNECTED,
    S_DEAD,         /* TCP_CLOSE after a connection: both directions are shut */
};

enum { LINK_QUEUE = 512 };

struct dgram {
    struct dgram *next;
    struct pbuf *p;
    ip_addr_t addr;
    u16_t port;
};

/* What a datagram socket is besides UDP's. */
enum packet_kind { P_NONE, P_RAW, P_PING };

struct sock {
    uint64_t handle;
    struct sock *next_dirty;
    uint8_t stream;
    uint8_t packet;             /* enum packet_kind */
    uint8_t protocol;           /* of a raw or ping socket */
    uint8_t hdrincl;            /* IP_HDRINCL, IPV6_HDRINCL */
    uint8_t v6;
    uint8_t v6only;
    uint8_t state;
    uint8_t bound;
    uint8_t disconnecting;      /* shut down after it failed: connect() is EINVAL */
    uint8_t told;               /* a connect() said that it is connected: more are EISCONN */
    uint8_t fin;                /* the peer's FIN is here */
    uint8_t fin_sent;           /* ours is on its way: shutdown() before a connection makes none */
    uint8_t shut_rd, shut_wr;   /* our own shutdown() */
    uint8_t blocked;            /* lwIP could not take a single byte more */
    uint8_t dirty;
    uint8_t edge;               /* something arrived: wake waiters even if the mask is the same */
    uint8_t broadcast, reuse, keepalive, nodelay, linger_on;
    uint8_t ttl, tos;
    uint8_t mc_ttl, mc_loop, mc_index;          /* IP_MULTICAST_TTL, _LOOP, _IF */
    uint8_t mc_all, mc_all6;    /* IP_MULTICAST_ALL, IPV6_MULTICAST_ALL */
    int linger_seconds;
    uint32_t keep_idle, keep_intvl, keep_cnt;   /* seconds, seconds, probes */
    int error;                  /* SO_ERROR */
    uint8_t device;             /* SO_BINDTODEVICE: index of the interface, or 0 */
    uint8_t refused_by;         /* the interface whose full queue took no datagram, or 0 */
    uint32_t reported;
    union {
        struct tcp_pcb *tcp;
        struct udp_pcb *udp;
    } pcb;
    ip_addr_t local, remote;    /* what the pcb had, once it is gone */
    u16_t local_port, remote_port;
    struct pbuf *rx_head, *rx_tail;
    u16_t rx_off;
    size_t rx_bytes;
    struct dgram *dg_head, *dg_tail;
    size_t dg_bytes, rcvbuf, sndbuf;
    struct sock *aq_head, *aq_tail, *aq_next;
    struct sock *next_packet;   /* in the list of raw and ping sockets */
    struct member *members;     /* the groups that it has joined */
    uint32_t mc_address;        /* what IP_MULTICAST_IF named, in network order */
    int checksum;               /* IPV6_CHECKSUM: where a raw socket has it, -1 for none */
    uint32_t filter[8];         /* ICMP_FILTER, ICMPV6_FILTER: types that are kept out */
    struct sock *listener;      /* while it waits to be accepted */
    int aq_len, backlog;
};

/* One end of a link: how frames pass, and those that wait. */
struct port {
    int native, fd, batch;
    ssize_t (*recv)(void *context, void *buf, size_t len, int flags);
    ssize_t (*send)(void *context, const void *buf, size_t len, int flags);
    void *context;
    struct vp_port *shown;      /* Python's */
    int muted;                  /* nothing leaves any more */
    unsigned first, count;
    struct { char *data; uint32_t len; } queue[LINK_QUEUE];
};

struct iface {
    struct iface *next;
    struct netif *first;        /* has the index, the first IPv4 address, all IPv6 ones */
    int up, ethernet;
    int lone;                   /* it has no netif but the first */
    u32_t mtu;
    u8_t mac[6];
    u32_t probed;               /* the address that ARP asks for, in network order, or 0 */
    int taken;                  /* somebody has it */
    u8_t taken_by[6];
    struct vp_counters counters;
    struct port port;
};

/* core.c */
void core_enter(void);
void core_leave(void);
int core_is_open(void);
uint64_t core_now_ms(void);
int errno_of(err_t err);
extern struct vp_counters counters;
extern struct vp_status status;

/* iface.c */
void ifaces_open(void);
void ifaces_close(void);
struct iface *ifaces_first(void);
struct iface *ifaces_only(void);
struct iface *iface_of(const struct netif *netif);      /* NULL: the loopback */
struct iface *iface_by_index(u32_t index);
u32_t iface_index(const struct iface *it);
struct netif *nets_by_index(u32_t index);
struct netif *nets_first(void);                         /* of those that are up */

/* nets.c */
int nets_open(void);
void nets_close(void);
struct netif *nets_add_first(struct iface *it, u32_t index);
void nets_remove(struct iface *it);
void nets_input(struct iface *it, const u8_t *frame, size_t len);
struct pbuf *nets_loop_pop(struct netif *netif);
err_t nets_loop_input(struct netif *netif, struct pbuf *p);
struct netif *nets_loopback(void);
struct netif *nets_of_address(const ip_addr_t *addr);
struct netif *nets_of_address_at(const ip_addr_t *addr, const struct iface *it);
int nets_own_address(const ip_addr_t *addr);
int nets_is_broadcast(const ip_addr_t *addr);
int nets_is_inside(const ip_addr_t *local, const ip_addr_t *remote, u32_t device);

int nets_is_outside(const struct netif *netif);

/* arp.c */
err_t arp_input(struct iface *it, struct pbuf *p, const u8_t *arp);

/* discovery.c */
void discovery_link_local(struct netif *first);
int discovery_is_sound(const u8_t *packet, size_t at, size_t len);
int discovery_is_advertisement(const u8_t *packet);
void discovery_settle(void);
void discovery_sent(void);
void discovery_tick(void);
struct netif *discovery_route(const ip6_addr_t *dest);
const ip6_addr_t *discovery_choose(const struct netif *netif, const ip6_addr_t *dest);

/* scope.c */
struct netif *scope_find(const struct sock *s, const ip6_addr_t *ip, u32_t scope);
void scope_keep(struct sock *s, const ip_addr_t *ip);
int scope_is_left(const struct sock *s, const ip_addr_t *ip);
u32_t scope_device(const struct sock *s, const ip_addr_t *to);

/* route.c */
void route_address(const struct vp_addr *addr, ip_addr_t *ip);
void routes_clear(void);
int route_add_subnet(const struct vp_addr *addr, int prefix, struct netif *netif);
void route_forget_address(const ip_addr_t *ip, const struct netif *netif);
void routes_forget_static(const struct iface *it);
void routes_forget(const struct iface *it);
int route_choose(u32_t device, const ip_addr_t *local, const ip_addr_t *to, struct netif **netif);
err_t route_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *dest);
err_t route_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *dest);

/* link.c */
void link_open(struct iface *it, const struct vp_config *config);
void link_close(struct iface *it);
void link_drop(struct iface *it);
void link_mute(struct iface *it);
err_t link_send(struct iface *it, struct pbuf *p);
void link_read(struct iface *it);
void link_flush(struct iface *it);
int link_full(const struct iface *it);
int links_full(void);

/* check.c */
enum verdict { PASS, MALFORMED, FOREIGN, MARTIAN, BACKLOG };
enum verdict check_frame(const struct iface *it, const u8_t *frame, size_t len);
int check_admits(struct iface *it, enum verdict verdict);
enum verdict check_packet(const struct iface *it, const u8_t *packet, size_t len);

/* table.c */
struct sock *sock_new(int v6, int stream);
struct sock *sock_find(uint64_t handle);
void sock_free(struct sock *s);
void sock_touch(struct sock *s, int edge);
struct sock *sock_each(size_t *cursor);
int sock_dirty(void);
int sock_collect(uint64_t *handles, uint32_t *masks, int max);
uint32_t sock_mask(const struct sock *s);
int sock_take_error(struct sock *s);
void sock_abort_all(void);
void sock_touch_datagrams(void);

/* sock.c */
int sock_same_ip(const ip_addr_t *one, const ip_addr_t *other);
int sock_check_target(const struct sock *s, const ip_addr_t *ip);
int sock_to_ip(const struct sock *s, const struct vp_addr *addr, ip_addr_t *ip);
void sock_from_ip(const struct sock *s, const ip_addr_t *ip, u16_t port, struct vp_addr *addr);
void sock_close_all(void);

/* stream.c */
uint32_t stream_mask(const struct sock *s);
int stream_create(struct sock *s);
void stream_close(struct sock *s);
int stream_unfinished(void);
void stream_kill(struct sock *s, int error);
void stream_lengthen_segments(struct tcp_pcb *pcb);
void stream_adopt(struct sock *s, struct tcp_pcb *pcb);
void stream_forget(struct tcp_pcb *pcb);
int stream_connect(struct sock *s, const ip_addr_t *ip, u16_t port);
void stream_send_fin(struct sock *s);
int stream_shutdown(struct sock *s, int how);
int stream_receiving_ended(const struct sock *s);
void stream_unreachable(const ip_addr_t *local, u16_t local_port, const ip_addr_t *remote,
                        u16_t remote_port, u32_t seqno, int error);
void stream_apply(struct sock *s);
int64_t stream_set_sndbuf(struct sock *s, int64_t value);
void stream_push(void);
void stream_trim_time_wait(void);

/* transfer.c */
void stream_queue_data(struct sock *s, struct pbuf *p);
void stream_drop_data(struct sock *s);
int stream_has_data(const struct sock *s);
int64_t stream_recv(struct sock *s, char *out, size_t size, int flags);
int64_t stream_send(struct sock *s, const char *data, size_t size);

/* passive.c */
void stream_drop_queue(struct sock *s);
int stream_bind(struct sock *s, const ip_addr_t *ip, u16_t port);
int stream_listen(struct sock *s, int backlog);
struct sock *stream_accept(struct sock *s, int *error);
void stream_replace_time_wait(u16_t local_port, const ip_addr_t *remote, u16_t remote_port);
int stream_is_opposite(u32_t seqno, const ip_addr_t *src, u16_t src_port, const ip_addr_t *dest,
                       u16_t dest_port);
int stream_keeps_out(const struct iface *it, unsigned flags, u32_t seqno, const ip_addr_t *src,
                     u16_t src_port, const ip_addr_t *dest, u16_t dest_port);

/* dgram.c */
uint32_t dgram_mask(const struct sock *s);
int dgram_create(struct sock *s);
void dgram_close(struct sock *s);
void dgram_kill(struct sock *s, int error);
int dgram_bind(struct sock *s, const ip_addr_t *ip, u16_t port);
int dgram_autobind(struct sock *s);
int dgram_connect(struct sock *s, const ip_addr_t *ip, u16_t port);
void dgram_apply(struct sock *s);
int dgram_shutdown(struct sock *s, int how);
int64_t dgram_recv(struct sock *s, char *out, size_t size, int flags, struct vp_addr *from);
int64_t dgram_send(struct sock *s, const char *data, size_t size, const ip_addr_t *to, u16_t port);
void dgram_unreachable(const ip_addr_t *local, u16_t local_port, const ip_addr_t *remote,
                       u16_t remote_port, int error);

int dgram_push(struct sock *s, struct pbuf *p, const ip_addr_t *addr, u16_t port);

/* raw.c */
int rawsock_create(struct sock *s, enum packet_kind kind, int protocol);
void rawsock_close(struct sock *s);
int rawsock_bind(struct sock *s, const ip_addr_t *ip, u16_t port);
int rawsock_autobind(struct sock *s);
int rawsock_connect(struct sock *s, const ip_addr_t *ip, u16_t port);
int rawsock_wants(int v6, unsigned protocol);
void rawsock_unreachable(unsigned protocol, const u8_t *inner, const ip_addr_t *local,
                         const ip_addr_t *remote, int error);

/* rawsend.c */
int64_t rawsock_send(struct sock *s, const char *data, size_t size, const ip_addr_t *to,
                     u16_t port);

/* mcast.c */
void mcast_leave_all(struct sock *s);
void mcast_forget(const struct iface *it);
int mcast_route(const struct sock *s, const ip_addr_t *local, const ip_addr_t *to,
                struct netif **netif);
int mcast_hears(const struct sock *s, const ip_addr_t *dest, const struct netif *in);

/* stats.c */
int stats_open(void);
void stats_received(const struct iface *it, const u8_t *p, size_t len, enum verdict verdict);
void stats_delivered(const struct pbuf *p, int v6, unsigned protocol, u16_t at);
void stats_datagram(int v6, int room);
void stats_no_route(int v6);
void stats_sent(const struct pbuf *p);
void stats_connecting(void);
void stats_connected(void);
void stats_broken(int connecting);
err_t stats_loop_copy(struct netif *netif, struct pbuf *p);

/* icmp.c */
void icmp_look(const struct pbuf *p, int v6);

/* isn.c */
void isn_seed(void);

#endif
