/* The life of the stack: initialisation, lock, timers, loopback.
 *
 * lwIP runs without its thread.  Whoever calls takes the core lock, works, and on the
 * way out delivers what the stack sent to itself.  lwIP's own list of timeouts is not
 * used, because it wakes ten times a second for multicast reports that nobody waits
 * for: the handlers are called from here, and only while they have something to do. */

#include <pthread.h>
#include <sys/random.h>
#include <time.h>

#include "shim.h"
#include "lwip/etharp.h"
#include "lwip/igmp.h"
#include "lwip/init.h"
#include "lwip/ip4_frag.h"
#include "lwip/ip6_frag.h"
#include "lwip/memp.h"
#include "lwip/mld6.h"
#include "lwip/nd6.h"
#include "lwip/priv/memp_priv.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/sys.h"
#include "lwip/tcpip.h"

enum { LOOPED_PER_TURN = 512 };

static pthread_mutex_t core_lock = PTHREAD_MUTEX_INITIALIZER;
static int initialised, opened;
static int loop_pending;
static uint64_t skipped_ms;

struct vp_counters counters;
struct vp_status status;

uint64_t core_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u + skipped_ms;
}

int errno_of(err_t err)
{
    switch (err) {
    case ERR_OK: return 0;
    case ERR_MEM:
    case ERR_BUF: return ENOBUFS;
    case ERR_TIMEOUT: return ETIMEDOUT;
    case ERR_RTE: return ENETUNREACH;
    case ERR_INPROGRESS: return EINPROGRESS;
    case ERR_WOULDBLOCK: return EAGAIN;
    case ERR_USE: return EADDRINUSE;
    case ERR_ALREADY: return EALREADY;
    case ERR_ISCONN: return EISCONN;
    case ERR_CONN: return ENOTCONN;
    case ERR_IF: return ENETDOWN;
    case ERR_ABRT: return ECONNABORTED;
    case ERR_RST: return ECONNRESET;
    case ERR_CLSD: return ENOTCONN;
    default: return EINVAL;
    }
}

/* Interposed: lwIP's own would hand the work to the thread that does not exist, and
 * aborts without it.  The only caller in this configuration is netif_loop_output. */
__attribute__((visibility("default")))
err_t tcpip_try_callback(tcpip_callback_fn function, void *ctx)
{
    LWIP_UNUSED_ARG(function);
    LWIP_UNUSED_ARG(ctx);
    loop_pending = 1;
    return ERR_OK;
}

static int loop_deliver(struct netif *netif, int budget)
{
    struct pbuf *p;
    /* Sockets that are bound to an interface know it by its first. */
    struct netif *first = iface_of(netif) != NULL ? iface_of(netif)->first : netif;
    while (budget > 0 && (p = nets_loop_pop(netif)) != NULL) {
        enum verdict verdict = check_packet(NULL, p->payload, p->len);
        budget--;
        p->if_idx = netif_get_index(first);
        stats_received(NULL, p->payload, p->len, verdict);
        if (!check_admits(NULL, verdict)) {
            pbuf_free(p);
        } else if (nets_loop_input(first, p) != ERR_OK) {
            pbuf_free(p);
        }
    }
    return budget;
}

/* Deliver what the stack sent to itself; a bounded amount, since two sockets in here
 * could keep each other busy for ever. */
static void loop_drain(void)
{
    int budget = LOOPED_PER_TURN;
    while (loop_pending && budget > 0) {
        loop_pending = 0;
        for (struct netif *netif = netif_list; netif != NULL; netif = netif->next)
            budget = loop_deliver(netif, budget);
    }
    if (budget == 0)
        loop_pending = 1;
}

struct tick {
    uint32_t every;
    void (*handler)(void);
    int (*needed)(void);
    uint64_t due;
    int armed;
};

static int tcp_needed(void)
{
    return tcp_active_pcbs != NULL || tcp_tw_pcbs != NULL;
}

static int mld_needed(void)
{
    for (struct netif *netif = netif_list; netif != NULL; netif = netif->next)
        for (const struct mld_group *g = netif_mld6_data(netif); g != NULL; g = g->next)
            if (g->timer > 0)
                return 1;
    return 0;
}

static int igmp_needed(void)
{
    for (struct netif *netif = netif_list; netif != NULL; netif = netif->next)
        for (const struct igmp_group *g = netif_igmp_data(netif); g != NULL; g = g->next)
            if (g->timer > 0)
                return 1;
    return 0;
}

static int always(void)
{
    return 1;
}

static void once_a_second(void)
{
    ip_reass_tmr();
    etharp_tmr();
    nd6_tmr();
    discovery_tick();
    ip6_reass_tmr();
    stream_trim_time_wait();
}

/* The peer may take the byte of a window probe without opening its window.  With nothing
 * left to send, tcp_slowtmr() would find a probe armed for no data, and abort the process. */
static void tcp_timer(void)
{
    for (struct tcp_pcb *pcb = tcp_active_pcbs; pcb != NULL; pcb = pcb->next)
        if (pcb->persist_backoff > 0 && pcb->unsent == NULL)
            pcb->persist_backoff = 0;
    tcp_tmr();
}

static struct tick ticks[] = {
    {TCP_TMR_INTERVAL, tcp_timer, tcp_needed, 0, 0},
    {MLD6_TMR_INTERVAL, mld6_tmr, mld_needed, 0, 0},
    {IGMP_TMR_INTERVAL, igmp_tmr, igmp_needed, 0, 0},
    {1000, once_a_second, always, 0, 0},
};

static void run_ticks(void)
{
    uint64_t now = core_now_ms();
    for (size_t i = 0; i < LWIP_ARRAYSIZE(ticks); i++) {
        struct tick *t = &ticks[i];
        if (!t->armed || t->due > now)
            continue;
        t->due = t->due + t->every > now ? t->due + t->every : now + t->every;
        t->handler();
    }
}

static uint64_t next_tick(void)
{
    uint64_t now = core_now_ms(), first = UINT64_MAX;
    for (size_t i = 0; i < LWIP_ARRAYSIZE(ticks); i++) {
        struct tick *t = &ticks[i];
        int needed = t->needed();
        if (needed && !t->armed)
            t->due = now + t->every;
        t->armed = needed;
        if (needed && t->due < first)
            first = t->due;
    }
    return first == UINT64_MAX ? first : first > skipped_ms ? first - skipped_ms : 0;
}

void core_enter(void)
{
    pthread_mutex_lock(&core_lock);
}

/* Returns how many frames wait for their links. */
static uint32_t flush_links(void)
{
    uint32_t queued = 0;
    for (struct iface *it = ifaces_first(); it != NULL; it = it->next) {
        if (it->port.count > 0)
            link_flush(it);
        queued += it->port.shown->queued = it->port.count;
    }
    return queued;
}

void core_leave(void)
{
    if (opened) {
        loop_drain();
        status.queued = flush_links();
        status.due_ms = next_tick();
        status.more = loop_pending != 0;
    } else {
        status.due_ms = UINT64_MAX;
        status.queued = 0;
        status.more = 0;
    }
    status.dirty = sock_dirty();
    status.attention = status.dirty || status.queued || status.more || status.writing
                       || status.link_errno || status.due_ms < status.armed_ms;
    pthread_mutex_unlock(&core_lock);
}

int core_is_open(void)
{
    return opened;
}

static void initialise(void)
{
    unsigned seed;
    if (initialised)
        return;
    initialised = 1;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        seed = (unsigned)core_now_ms();
    /* lwIP takes its first ports and its identifiers from rand(). */
    srand(seed);
    isn_seed();
    sys_mutex_new(&lock_tcpip_core);
    lwip_init();
}

static int agrees(memp_t pool, size_t size)
{
    return memp_pools[pool]->size == LWIP_MEM_ALIGN_SIZE(size);
}

void vp_abi(struct vp_abi *out)
{
    memset(out, 0, sizeof *out);
    strncpy(out->version, LWIP_VERSION_STRING, sizeof out->version - 1);
    out->ok = agrees(MEMP_TCP_PCB, sizeof(struct tcp_pcb))
              && agrees(MEMP_TCP_PCB_LISTEN, sizeof(struct tcp_pcb_listen))
              && agrees(MEMP_UDP_PCB, sizeof(struct udp_pcb))
              && agrees(MEMP_TCP_SEG, sizeof(struct tcp_seg));
}

int vp_open(void)
{
    int result = 0;

    core_enter();
    if (opened) {
        result = -EBUSY;
        goto out;
    }
    initialise();
    if (stats_open() < 0) {
        result = -ELIBBAD;
        goto out;
    }
    memset(&counters, 0, sizeof counters);
    memset(&status, 0, sizeof status);
    for (size_t i = 0; i < LWIP_ARRAYSIZE(ticks); i++)
        ticks[i].armed = 0;
    if (nets_open() < 0) {
        nets_close();
        result = -ENOMEM;
        goto out;
    }
    opened = 1;
out:
    core_leave();
    return result;
}

/* The first half of closing: every socket dies, and its peer is told. */
int vp_quit(void)
{
    core_enter();
    if (opened)
        sock_abort_all();
    core_leave();
    return 0;
}

/* Close the sockets as the end of a process does; returns the connections that go on. */
int vp_finish(void)
{
    int left = 0;
    core_enter();
    if (opened) {
        sock_close_all();
        left = stream_unfinished();
    }
    core_leave();
    return left;
}

static void close_stack(void)
{
    sock_abort_all();
    flush_links();
    while (tcp_tw_pcbs != NULL)
        tcp_abort(tcp_tw_pcbs);
    /* Connections that were closed but had not ended yet. */
    while (tcp_active_pcbs != NULL)
        tcp_abandon(tcp_active_pcbs, 0);
    loop_pending = 0;
    nets_close();
    /* Ages out what was being reassembled, whose owner is gone. */
    for (int i = 0; i <= IP_REASS_MAXAGE; i++)
        ip_reass_tmr();
    for (int i = 0; i <= IPV6_REASS_MAXAGE; i++)
        ip6_reass_tmr();
    opened = 0;
}

int vp_close(void)
{
    core_enter();
    if (opened)
        close_stack();
    core_leave();
    return 0;
}

/* A child has a copy of the stack and the parent's link: its copy ends in silence. */
void vp_before_fork(void)
{
    pthread_mutex_lock(&core_lock);
}

void vp_after_fork(int in_child)
{
    if (in_child && opened) {
        for (struct iface *it = ifaces_first(); it != NULL; it = it->next)
            link_mute(it);
        close_stack();
        status.due_ms = UINT64_MAX;
        status.queued = status.more = 0;
    }
    pthread_mutex_unlock(&core_lock);
}

struct vp_status *vp_status(void)
{
    return &status;
}

static void read_links(int readable)
{
    struct iface *it;
    if (readable == VP_NO_LINK)
        return;
    if (readable != VP_EVERY_LINK) {
        if ((it = iface_by_index((u32_t)readable)) != NULL)
            link_read(it);
        return;
    }
    for (it = ifaces_first(); it != NULL; it = it->next)
        link_read(it);
}

/* Read a batch from the link that is readable, run the timers that are due; then
 * collect, as vp_collect does. */
int vp_turn(int readable, uint64_t *handles, uint32_t *masks, int max)
{
    int count;
    core_enter();
    if (opened) {
        read_links(readable);
        run_ticks();
        loop_drain();
    }
    count = sock_collect(handles, masks, max);
    core_leave();
    return count;
}

/* Let the timers see time pass without waiting for it. */
int vp_skip(uint32_t ms)
{
    core_enter();
    for (uint32_t gone = 0; opened && gone < ms; gone += MLD6_TMR_INTERVAL) {
        skipped_ms += MLD6_TMR_INTERVAL;
        run_ticks();
        loop_drain();
        flush_links();
        next_tick();
    }
    core_leave();
    return 0;
}

int vp_feed(uint32_t index, const char *frames, const uint32_t *lengths, int count)
{
    struct iface *it;
    int result = -ENETDOWN;
    core_enter();
    if ((it = iface_by_index(index)) != NULL) {
        for (int i = 0; i < count; i++) {
            nets_input(it, (const u8_t *)frames, lengths[i]);
            frames += lengths[i];
        }
        run_ticks();
        result = count;
    }
    core_leave();
    return result;
}
