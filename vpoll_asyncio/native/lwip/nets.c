/* Addresses: which are ours, and what comes in.  route.c says where to.
 *
 * One lwIP netif has one IPv4 address, so each further one gets a netif of its own on
 * the same interface.  IPv6 addresses are all on the first, which is there without any, too.
 *
 * A packet for any of our addresses is ours, whichever interface it comes in by, and the
 * question who has an IPv4 address is answered on every interface, as a kernel does. */

#include "shim.h"
#include "lwip/etharp.h"
#include "lwip/priv/nd6_priv.h"
#include "netif/ethernet.h"

/* Addresses and interfaces, which lwIP numbers in a byte. */
enum { MOST_NETIFS = 232, LAST_NETIF = 254 };

#define LOOP_BROADCAST PP_HTONL(0x7fffffffu)

static struct netif loopback;
static int netif_count;

struct pbuf *nets_loop_pop(struct netif *netif)
{
    struct pbuf *p = netif->loop_first, *last = p;
    if (p == NULL)
        return NULL;
    while (last->len != last->tot_len && last->next != NULL)
        last = last->next;
    netif->loop_first = last->next;
    if (last->next == NULL)
        netif->loop_last = NULL;
    last->next = NULL;
    return p;
}

struct netif *nets_loopback(void)
{
    return &loopback;
}

/* Whether the netif is one of an interface, and not the loopback. */
int nets_is_outside(const struct netif *netif)
{
    return netif != &loopback;
}

static int has_v6(const struct netif *netif, const ip6_addr_t *addr)
{
    if (ip6_addr_has_zone(addr) && ip6_addr_zone(addr) != netif_get_index(netif))
        return 0;
    for (int i = 0; i < LWIP_IPV6_NUM_ADDRESSES; i++)
        if (ip6_addr_isvalid(netif_ip6_addr_state(netif, i))
            && ip6_addr_cmp_zoneless(addr, netif_ip6_addr(netif, i)))
            return 1;
    return 0;
}

struct netif *nets_of_address(const ip_addr_t *addr)
{
    struct netif *netif;
    if (IP_IS_V4(addr)) {
        if (ip4_addr_isloopback(ip_2_ip4(addr)))
            return &loopback;
        if (ip4_addr_isany(ip_2_ip4(addr)))
            return NULL;
        NETIF_FOREACH(netif)
            if (ip4_addr_cmp(ip_2_ip4(addr), netif_ip4_addr(netif)))
                return netif;
        return NULL;
    }
    if (ip6_addr_isloopback(ip_2_ip6(addr)))
        return &loopback;
    NETIF_FOREACH(netif)
        if (has_v6(netif, ip_2_ip6(addr)))
            return netif;
    return NULL;
}

/* The same as `it` sees it, where a link-local address of another link is somebody else's. */
struct netif *nets_of_address_at(const ip_addr_t *addr, const struct iface *it)
{
    if (it != NULL && IP_IS_V6(addr) && ip6_addr_islinklocal(ip_2_ip6(addr)))
        return has_v6(it->first, ip_2_ip6(addr)) ? it->first : NULL;
    return nets_of_address(addr);
}

int nets_own_address(const ip_addr_t *addr)
{
    return nets_of_address(addr) != NULL;
}

int nets_is_broadcast(const ip_addr_t *addr)
{
    struct netif *netif;
    if (!IP_IS_V4(addr))
        return 0;
    if (ip_2_ip4(addr)->addr == IPADDR_BROADCAST || ip_2_ip4(addr)->addr == LOOP_BROADCAST)
        return 1;
    NETIF_FOREACH(netif)
        if (nets_is_outside(netif) && ip4_addr_isbroadcast(ip_2_ip4(addr), netif))
            return 1;
    return 0;
}

/* Whether what goes from one address to the other never sees the link: the cases in which
 * ip4_output_if_src() and ip6_output_if_src() hand a packet to netif_loop_output(). */
int nets_is_inside(const ip_addr_t *local, const ip_addr_t *remote, u32_t device)
{
    struct netif *netif = ip_route(local, remote);
    if (netif != NULL && device && iface_of(netif) != iface_by_index(device))
        return 0;
    if (netif == NULL)
        return 0;
    if (netif == &loopback)
        return 1;
    return IP_IS_V6(remote) ? netif_get_ip6_addr_match(netif, ip_2_ip6(remote)) >= 0
                            : ip4_addr_cmp(ip_2_ip4(remote), netif_ip4_addr(netif));
}

/* All of 127.0.0.0/8 is this host's, as in the kernel's table of local routes.  lwIP takes
 * packets for the address of the interface only, so that is the address meanwhile. */
err_t nets_loop_input(struct netif *netif, struct pbuf *p)
{
    ip4_addr_t *own = ip_2_ip4(&loopback.ip_addr), home = *own;
    const struct ip_hdr *header = p->payload;
    err_t err;
    if (netif == &loopback && p->len >= IP_HLEN && IPH_V(header) == 4
        && ip4_addr_isloopback(&header->dest) && header->dest.addr != LOOP_BROADCAST)
        own->addr = header->dest.addr;
    err = ip_input(p, netif);
    *own = home;
    return err;
}

static err_t link_output(struct netif *netif, struct pbuf *p)
{
    return link_send(iface_of(netif), p);
}

static err_t loopback_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *addr)
{
    LWIP_UNUSED_ARG(addr);
    return netif_loop_output(netif, p);
}

static err_t loopback_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *addr)
{
    LWIP_UNUSED_ARG(addr);
    return netif_loop_output(netif, p);
}

static err_t init_loopback(struct netif *netif)
{
    netif->name[0] = 'l';
    netif->name[1] = 'o';
    netif->output = loopback_output4;
    netif->output_ip6 = loopback_output6;
    netif->flags |= NETIF_FLAG_IGMP;
    return ERR_OK;
}

static err_t init_interface(struct netif *netif)
{
    const struct iface *it = iface_of(netif);
    netif->name[0] = 'v';
    netif->name[1] = 'p';
    netif->mtu = (u16_t)it->mtu;
    netif->linkoutput = link_output;
    netif->output = route_output4;
    netif->output_ip6 = route_output6;
    netif->flags = NETIF_FLAG_IGMP;
    if (it->ethernet) {
        netif->hwaddr_len = ETH_HWADDR_LEN;
        memcpy(netif->hwaddr, it->mac, ETH_HWADDR_LEN);
        netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET
                       | NETIF_FLAG_IGMP | NETIF_FLAG_MLD6;
    }
    return ERR_OK;
}

static struct netif *add_netif(struct iface *it, u32_t index, const ip4_addr_t *ip,
                               const ip4_addr_t *mask)
{
    struct netif *netif;
    /* lwIP looks for a free number for ever. */
    if (netif_count == MOST_NETIFS || (netif = calloc(1, sizeof *netif)) == NULL)
        return NULL;
    if (netif_add(netif, ip, mask, NULL, it, init_interface,
                  it->ethernet ? ethernet_input : ip_input) == NULL) {
        free(netif);
        return NULL;
    }
    netif->num = (u8_t)(index - 1);
    netif_count++;
    it->lone = it->first == NULL;
    if (it->up)
        netif_set_link_up(netif);
    netif_set_up(netif);
    return netif;
}

static void remove_netif(struct netif *netif)
{
    struct pbuf *p;
    netif_set_down(netif);
    netif_remove(netif);
    while ((p = nets_loop_pop(netif)) != NULL)
        pbuf_free(p);
    if (!nets_is_outside(netif))
        return;
    free(netif);
    netif_count--;
}

struct netif *nets_add_first(struct iface *it, u32_t index)
{
    return add_netif(it, index, NULL, NULL);
}

void nets_remove(struct iface *it)
{
    struct netif *next;
    mcast_forget(it);
    routes_forget(it);
    for (struct netif *netif = netif_list; netif != NULL; netif = next) {
        next = netif->next;
        if (iface_of(netif) == it && netif != it->first)
            remove_netif(netif);
    }
    remove_netif(it->first);
    it->first = NULL;
}

int nets_open(void)
{
    ip4_addr_t home, mask;
    IP4_ADDR(&home, 127, 0, 0, 1);
    IP4_ADDR(&mask, 255, 0, 0, 0);
    memset(&loopback, 0, sizeof loopback);
    if (netif_add(&loopback, &home, &mask, NULL, NULL, init_loopback, ip_input) == NULL)
        return -ENOMEM;
    loopback.num = 0;
    ip_addr_copy_from_ip6(loopback.ip6_addr[1], *IP6_ADDR_ANY6);
    ip_2_ip6(&loopback.ip6_addr[1])->addr[3] = PP_HTONL(1);
    netif_ip6_addr_set_state(&loopback, 1, IP6_ADDR_PREFERRED);
    netif_set_link_up(&loopback);
    netif_set_up(&loopback);
    ifaces_open();
    return 0;
}

void nets_close(void)
{
    for (int i = 0; i < LWIP_ND6_NUM_ROUTERS; i++)
        default_router_list[i].neighbor_entry = NULL;
    ifaces_close();
    while (netif_list != NULL)
        remove_netif(netif_list);
    routes_clear();
}

static u32_t further_index(void)
{
    u32_t index = LAST_NETIF;
    while (netif_get_by_index((u8_t)index) != NULL)
        index--;
    return index;
}

static int add_v4(struct iface *it, const struct vp_addr *addr, int prefix)
{
    struct netif *first = it->first;
    ip4_addr_t ip, mask;
    memcpy(&ip.addr, addr->ip, 4);
    mask.addr = prefix ? lwip_htonl(0xffffffffu << (32 - prefix)) : 0;
    if (ip4_addr_isany_val(*netif_ip4_addr(first))) {
        netif_set_addr(first, &ip, &mask, IP4_ADDR_ANY4);
        return 0;
    }
    return add_netif(it, further_index(), &ip, &mask) != NULL ? 0 : -ENOSPC;
}

static int add_v6(struct netif *first, const struct vp_addr *addr, int prefix)
{
    ip6_addr_t ip;
    s8_t index;
    memcpy(ip.addr, addr->ip, 16);
    ip6_addr_clear_zone(&ip);
    discovery_link_local(first);
    if (ip6_addr_islinklocal(&ip) && !ip6_addr_isinvalid(netif_ip6_addr_state(first, 0)))
        netif_ip6_addr_set_state(first, 0, IP6_ADDR_INVALID);
    if (netif_add_ip6_address(first, &ip, &index) != ERR_OK)
        return -ENOSPC;
    /* The administrator says that the address is this host's: no duplicate detection,
     * which would keep it unusable for a second. */
    netif_ip6_addr_set_state(first, index, IP6_ADDR_PREFERRED);
    return route_add_subnet(addr, prefix, first);
}

int vp_add_address(uint32_t index, const struct vp_addr *addr, int prefix)
{
    struct iface *it;
    ip_addr_t ip;
    int result;
    core_enter();
    route_address(addr, &ip);
    if (!core_is_open())
        result = -ENETDOWN;
    else if ((it = iface_by_index(index)) == NULL)
        result = -ENODEV;
    else if (nets_of_address_at(&ip, it) != NULL)
        result = -EEXIST;
    else
        result = addr->family == 4 ? add_v4(it, addr, prefix) : add_v6(it->first, addr, prefix);
    core_leave();
    return result;
}

static void del_v4(struct netif *netif)
{
    struct iface *it = iface_of(netif);
    if (netif == it->first) {
        netif_set_addr(netif, IP4_ADDR_ANY4, IP4_ADDR_ANY4, IP4_ADDR_ANY4);
        etharp_cleanup_netif(netif);
    } else {
        remove_netif(netif);
        it->lone = 1;
        NETIF_FOREACH(netif)
            if (iface_of(netif) == it && netif != it->first)
                it->lone = 0;
    }
}

int vp_del_address(uint32_t index, const struct vp_addr *addr)
{
    struct netif *netif;
    ip_addr_t ip;
    int result = 0;
    core_enter();
    route_address(addr, &ip);
    netif = nets_of_address_at(&ip, iface_by_index(index));
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if (netif == NULL || iface_of(netif) == NULL
               || (index && iface_of(netif) != iface_by_index(index))) {
        result = -EADDRNOTAVAIL;
    } else {
        route_forget_address(&ip, netif);
        if (addr->family == 6)
            netif_ip6_addr_set_state(netif, netif_get_ip6_addr_match(netif, ip_2_ip6(&ip)),
                                     IP6_ADDR_INVALID);
        else
            del_v4(netif);
    }
    core_leave();
    return result;
}

/* lwIP takes no broadcast before it has an address, but for a client of DHCP of its own: so
 * a socket's gets here as if the address were the one that is asked for. */
static err_t input(struct netif *netif, struct pbuf *p, const u8_t *packet)
{
    int unnumbered = packet != NULL && packet[0] >> 4 == 4 && packet[9] == 17
                     && ip4_addr_isany_val(*netif_ip4_addr(netif))
                     && memcmp(packet + 16, "\xff\xff\xff\xff", 4) == 0;
    err_t err;
    if (!unnumbered)
        return netif->input(p, netif);
    ip_2_ip4(&netif->ip_addr)->addr = IPADDR_BROADCAST;
    err = netif->input(p, netif);
    if (ip_2_ip4(&netif->ip_addr)->addr == IPADDR_BROADCAST)
        ip_2_ip4(&netif->ip_addr)->addr = IPADDR_ANY;
    return err;
}

void nets_input(struct iface *it, const u8_t *frame, size_t len)
{
    const u8_t *packet = frame;
    struct pbuf *p;
    enum verdict verdict;
    err_t err;

    if (!it->up)
        return;
    it->counters.rx_frames++;
    it->counters.rx_bytes += len;
    verdict = it->ethernet ? check_frame(it, frame, len) : check_packet(it, frame, len);
    if (!it->ethernet)
        stats_received(it, frame, len, verdict);
    else if (len >= 14 && (frame[12] == 0x08 || frame[12] == 0x86) && frame[13] != 0x06)
        stats_received(it, frame + 14, len - 14, verdict);
    if (!check_admits(it, verdict))
        return;
    /* Never PBUF_POOL: the package's pool has blocks that are smaller than what
     * pbuf_alloc fills. */
    p = pbuf_alloc(PBUF_RAW, (u16_t)len, PBUF_RAM);
    if (p == NULL)
        return;
    memcpy(p->payload, frame, len);
    if (it->ethernet)
        packet = frame[12] == 0x08 && frame[13] == 0x00 ? frame + 14 : NULL;
    if (it->ethernet && frame[12] == 0x08 && frame[13] == 0x06)
        err = arp_input(it, p, frame + 14);
    else
        err = input(it->first, p, packet);
    if (err != ERR_OK)
        pbuf_free(p);
    if (it->ethernet && frame[12] == 0x86 && discovery_is_advertisement(frame + 14))
        discovery_settle();
}
