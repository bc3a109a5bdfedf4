/* What Python sees.  cffi parses this file, so it holds plain declarations only.
 *
 * Functions that can fail return a negative errno of the host.  All of them take the
 * core lock and may be called from any thread; the GIL is not held meanwhile. */

struct vp_addr {
    uint32_t family;    /* 4, 6, or 0 for none */
    uint32_t port;
    uint32_t scope;     /* sin6_scope_id: index of the interface */
    uint8_t ip[16];
};

/* What Python reads of an interface without the lock, as a hint. */
struct vp_port {
    uint32_t queued;            /* frames that the link did not take yet */
    int32_t link_errno;         /* the link failed: ask it whether for good, and write 0 */
};

struct vp_config {
    int ethernet;               /* frames with an Ethernet header, else bare IP packets */
    uint8_t mac[6];
    uint32_t mtu;
    int native;                 /* use fd, recv, send; else frames pass through Python */
    int fd;
    uintptr_t recv;             /* vdeplug's signatures; 0: read(2) and write(2) */
    uintptr_t send;
    uintptr_t context;
    int batch;
    struct vp_port *port;       /* Python's, until the interface is gone */
};

/* The state after the latest call; read without the lock, so only as a hint. */
struct vp_status {
    uint64_t due_ms;            /* CLOCK_MONOTONIC at which timers must run; all ones: never */
    uint64_t armed_ms;          /* Python's: when it will run them, 0 for who asks each time */
    uint32_t dirty;             /* sockets whose mask waits to be collected */
    uint32_t queued;            /* frames that links did not take yet */
    uint32_t more;              /* work is left over: call vp_turn again at once */
    uint32_t writing;           /* Python's: it watches for a link to be writable */
    int32_t link_errno;         /* a link failed: look which, and write 0 */
    uint32_t attention;         /* any of this is for Python to act upon */
};

struct vp_counters {
    uint64_t rx_frames, rx_bytes, tx_frames, tx_bytes;
    uint64_t rx_malformed;      /* lengths or headers that do not fit */
    uint64_t rx_foreign;        /* not for this host, or of no protocol that it speaks */
    uint64_t rx_martian;        /* addresses that no frame from outside may carry */
    uint64_t rx_backlog;        /* connection requests that a full backlog kept out */
    uint64_t tx_dropped;        /* the link refused the frame for good */
    uint64_t tx_deferred;       /* the queue to the link was full: sent again later */
};

/* Named as in /proc/net/snmp and /proc/net/snmp6. */
struct vp_ip_stats {
    uint64_t InReceives, InHdrErrors, InAddrErrors, InUnknownProtos, InDelivers, OutRequests,
        OutNoRoutes, ReasmReqds, ReasmOKs, FragOKs, FragCreates;
};

struct vp_icmp_stats {
    uint64_t InMsgs, InErrors, InDestUnreachs, InTimeExcds, InEchos, InEchoReps, OutMsgs,
        OutDestUnreachs, OutTimeExcds, OutEchos, OutEchoReps;
};

struct vp_tcp_stats {
    uint64_t ActiveOpens, PassiveOpens, AttemptFails, EstabResets, CurrEstab, InSegs, OutSegs,
        RetransSegs, InErrs, OutRsts, InCsumErrors;
};

struct vp_udp_stats {
    uint64_t InDatagrams, NoPorts, InErrors, OutDatagrams, RcvbufErrors, InCsumErrors;
};

struct vp_socket_stats {
    uint64_t tcp, tcp_tw, udp, raw, ping, receive_bytes, send_bytes;
};

struct vp_stats {
    struct vp_ip_stats Ip, Ip6;
    struct vp_icmp_stats Icmp, Icmp6;
    struct vp_tcp_stats Tcp;
    struct vp_udp_stats Udp, Udp6;
    struct vp_socket_stats Sockets;
};

struct vp_abi {
    char version[16];
    int ok;                     /* headers and library agree on their structures */
};

void vp_abi(struct vp_abi *out);
int vp_open(void);
int vp_add_interface(const struct vp_config *config);
int vp_del_interface(uint32_t index);
int vp_autoconf(uint32_t index);
int vp_learned(uint32_t index, struct vp_addr *out, int most);
int vp_probe(uint32_t index, const struct vp_addr *addr);
int vp_probed(uint32_t index, uint8_t *mac);
int vp_set_up(uint32_t index, int up);
int vp_lose_link(uint32_t index);
int vp_add_address(uint32_t index, const struct vp_addr *addr, int prefix);
int vp_del_address(uint32_t index, const struct vp_addr *addr);
int vp_add_route(uint32_t index, const struct vp_addr *dest, int prefix,
                 const struct vp_addr *gateway);
int vp_del_route(uint32_t index, const struct vp_addr *dest, int prefix,
                 const struct vp_addr *gateway);
int vp_set_mtu(uint32_t index, uint32_t mtu);
int vp_link_local(uint32_t index, struct vp_addr *out);
int vp_quit(void);
int vp_finish(void);
int vp_close(void);
void vp_before_fork(void);
void vp_after_fork(int in_child);
struct vp_status *vp_status(void);
int vp_counters(uint32_t index, struct vp_counters *out);

int vp_turn(int readable, uint64_t *handles, uint32_t *masks, int max);
int vp_skip(uint32_t ms);
int vp_feed(uint32_t index, const char *frames, const uint32_t *lengths, int count);
int vp_drain(uint32_t index, char *out, size_t size, uint32_t *lengths, int max);
int vp_collect(uint64_t *handles, uint32_t *masks, int max);

int vp_stats(struct vp_stats *out);
int64_t vp_socket(int family, int kind, int protocol);
int vp_sock_close(uint64_t handle);
int vp_bind(uint64_t handle, const struct vp_addr *addr);
int vp_listen(uint64_t handle, int backlog);
int64_t vp_accept(uint64_t handle, struct vp_addr *peer, uint32_t *mask);
int vp_connect(uint64_t handle, const struct vp_addr *addr);
int vp_finish_connect(uint64_t handle);
int vp_shutdown(uint64_t handle, int how);
int64_t vp_recv(uint64_t handle, char *out, size_t size, int flags, struct vp_addr *from);
int64_t vp_recv_some(uint64_t handle, char *out, size_t size);
int64_t vp_send(uint64_t handle, const char *data, size_t size, const struct vp_addr *to);
int vp_begin(uint64_t handle, struct vp_addr *local);
int vp_sockname(uint64_t handle, struct vp_addr *out);
int vp_peername(uint64_t handle, struct vp_addr *out);
int vp_mask(uint64_t handle);
int vp_tell(uint64_t handle);
int64_t vp_getopt(uint64_t handle, int option);
int vp_setopt(uint64_t handle, int option, int64_t value);
int vp_group(uint64_t handle, int joins, const struct vp_addr *group, const struct vp_addr *by);
int vp_group_interface(uint64_t handle, const struct vp_addr *by);
int vp_filter(uint64_t handle, int set, uint32_t *words);

uint16_t lwip_standard_chksum(const void *data, int len);

enum vp_flags { VP_PEEK = 1, VP_TRUNC = 2, VP_WAIT = 4 };

enum { VP_LOST = 0x10000000, VP_MOST_INTERFACES = 32 };

/* For vp_turn(): the index of the interface whose link is readable, or one of these. */
enum { VP_NO_LINK = 0, VP_EVERY_LINK = -1 };

enum vp_option {
    VP_ERROR, VP_ACCEPTCONN, VP_REUSEADDR, VP_KEEPALIVE, VP_BROADCAST, VP_RCVBUF, VP_SNDBUF,
    VP_LINGER, VP_NODELAY, VP_KEEPIDLE, VP_KEEPINTVL, VP_KEEPCNT, VP_TTL, VP_TOS, VP_V6ONLY,
    VP_AVAILABLE, VP_MAXSEG, VP_HDRINCL, VP_CHECKSUM, VP_DEVICE,
    VP_MULTICAST_TTL, VP_MULTICAST_LOOP, VP_MULTICAST_ALL, VP_MULTICAST_ALL6,
    VP_MULTICAST_IF, VP_MULTICAST_IF6
};

enum vp_kind { VP_DATAGRAM, VP_STREAM, VP_RAW, VP_PING };
