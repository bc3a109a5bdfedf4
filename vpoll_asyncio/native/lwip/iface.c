/* Interfaces: which there are, and what is known of each.  nets.c has their addresses,
 * link.c their frames.
 *
 * An interface has at least one lwIP netif, its first, whose index is the interface's.  lwIP
 * numbers netifs as they come; here interfaces count upwards from the loopback's 1, as in a
 * kernel, and further netifs downwards from the other end. */

#include "shim.h"
#include "lwip/etharp.h"
#include "lwip/nd6.h"

enum { FIRST_INDEX = 2, LAST_INDEX = 120 };

static struct iface *ifaces;
static unsigned iface_count;
static u32_t next_index = FIRST_INDEX;

struct iface *ifaces_first(void)
{
    return ifaces;
}

struct iface *iface_of(const struct netif *netif)
{
    return netif->state;
}

u32_t iface_index(const struct iface *it)
{
    return netif_get_index(it->first);
}

struct iface *iface_by_index(u32_t index)
{
    struct iface *it = ifaces;
    while (it != NULL && iface_index(it) != index)
        it = it->next;
    return it;
}

struct netif *nets_by_index(u32_t index)
{
    struct iface *it;
    if (index == netif_get_index(nets_loopback()))
        return nets_loopback();
    it = iface_by_index(index);
    return it != NULL ? it->first : NULL;
}

struct netif *nets_first(void)
{
    struct iface *it = ifaces;
    while (it != NULL && !it->up)
        it = it->next;
    return it != NULL ? it->first : NULL;
}

/* The one interface, or NULL where there are none or several. */
struct iface *ifaces_only(void)
{
    return ifaces != NULL && ifaces->next == NULL ? ifaces : NULL;
}

static u32_t free_index(void)
{
    u32_t index;
    do {
        index = next_index;
        next_index = index == LAST_INDEX ? FIRST_INDEX : index + 1;
    } while (iface_by_index(index) != NULL);
    return index;
}

void ifaces_open(void)
{
    next_index = FIRST_INDEX;
}

static void append(struct iface *it)
{
    struct iface **end = &ifaces;
    while (*end != NULL)
        end = &(*end)->next;
    *end = it;
    iface_count++;
}

static void release(struct iface *it)
{
    link_close(it);
    free(it);
}

static int add(const struct vp_config *config)
{
    struct iface *it;
    if (iface_count == VP_MOST_INTERFACES)
        return -ENOSPC;
    if ((it = calloc(1, sizeof *it)) == NULL)
        return -ENOMEM;
    it->mtu = LWIP_MIN(config->mtu, 0xffffu);
    it->ethernet = config->ethernet;
    memcpy(it->mac, config->mac, sizeof it->mac);
    it->up = 1;
    link_open(it, config);
    if ((it->first = nets_add_first(it, free_index())) == NULL) {
        release(it);
        return -ENOMEM;
    }
    append(it);
    return (int)iface_index(it);
}

int vp_add_interface(const struct vp_config *config)
{
    int result;
    core_enter();
    result = core_is_open() ? add(config) : -ENETDOWN;
    core_leave();
    return result;
}

static void sum_up(struct vp_counters *sum, const struct vp_counters *more)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)more;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

static void remove_iface(struct iface *it)
{
    struct iface **at = &ifaces;
    nets_remove(it);
    while (*at != it)
        at = &(*at)->next;
    *at = it->next;
    iface_count--;
    sum_up(&counters, &it->counters);
    release(it);
}

int vp_del_interface(uint32_t index)
{
    struct iface *it;
    int result = 0;
    core_enter();
    if ((it = iface_by_index(index)) == NULL)
        result = -ENODEV;
    else
        remove_iface(it);
    core_leave();
    return result;
}

void ifaces_close(void)
{
    while (ifaces != NULL)
        remove_iface(ifaces);
}

/* fib_disable_ip(): the administrator's routes go, those of the addresses come back. */
static void shut(struct iface *it)
{
    routes_forget_static(it);
    link_drop(it);
    for (struct netif *netif = netif_list; netif != NULL; netif = netif->next) {
        if (iface_of(netif) != it)
            continue;
        netif_set_link_down(netif);
        etharp_cleanup_netif(netif);
        nd6_cleanup_netif(netif);
    }
}

int vp_set_up(uint32_t index, int up)
{
    struct iface *it;
    int result = 0;
    core_enter();
    if ((it = iface_by_index(index)) == NULL) {
        result = -ENODEV;
    } else if (it->up != !!up) {
        it->up = !!up;
        if (!up)
            shut(it);
        else
            for (struct netif *netif = netif_list; netif != NULL; netif = netif->next)
                if (iface_of(netif) == it)
                    netif_set_link_up(netif);
        nd6_clear_destination_cache();
        sock_touch_datagrams();
    }
    core_leave();
    return result;
}

int vp_set_mtu(uint32_t index, uint32_t mtu)
{
    struct iface *it;
    int result = -ENODEV;
    core_enter();
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if ((it = iface_by_index(index)) != NULL) {
        it->mtu = LWIP_MIN(mtu, 0xffffu);
        for (struct netif *netif = netif_list; netif != NULL; netif = netif->next)
            if (iface_of(netif) == it)
                netif->mtu = netif->mtu6 = (u16_t)it->mtu;
        nd6_clear_destination_cache();
        result = 0;
    }
    core_leave();
    return result;
}

int vp_link_local(uint32_t index, struct vp_addr *out)
{
    struct iface *it;
    int found = 0;
    memset(out, 0, sizeof *out);
    core_enter();
    if ((it = iface_by_index(index)) != NULL
        && ip6_addr_isvalid(netif_ip6_addr_state(it->first, 0))) {
        out->family = 6;
        memcpy(out->ip, netif_ip6_addr(it->first, 0)->addr, 16);
        out->scope = index;
        found = 1;
    }
    core_leave();
    return found;
}

/* Of one interface; with 0 of all that there are and have been. */
int vp_counters(uint32_t index, struct vp_counters *out)
{
    struct iface *it;
    int result = 0;
    core_enter();
    if (index == 0) {
        *out = counters;
        for (it = ifaces; it != NULL; it = it->next)
            sum_up(out, &it->counters);
    } else if ((it = iface_by_index(index)) != NULL) {
        *out = it->counters;
    } else {
        result = -ENODEV;
    }
    core_leave();
    return result;
}
