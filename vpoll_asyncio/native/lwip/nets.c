/* Interfaces and addresses: which are ours, and what comes in.  route.c says where to.
 *
 * One lwIP netif has one IPv4 address, so each further one gets a netif of its own on
 * the same link.  IPv6 addresses are all on the first, which is there without any, too. */

#include "shim.h"
#include "lwip/etharp.h"
#include "lwip/nd6.h"
#include "lwip/priv/nd6_priv.h"
#include "netif/ethernet.h"

enum { MOST_NETIFS = 200 };

#define LOOP_BROADCAST PP_HTONL(0x7fffffffu)

static struct netif loopback;
static struct netif *first;
static int netif_count;
static int open_mtu, open_ethernet;
static u8_t open_mac[6];

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

struct netif *nets_first(void)
{
    return first;
}

struct netif *nets_loopback(void)
{
    return &loopback;
}

/* Whether the netif is one of an interface, and not the loopback. */
static int is_outside(const struct netif *netif)
{
    return netif != &loopback;
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
        for (int i = 0; i < LWIP_IPV6_NUM_ADDRESSES; i++)
            if (ip6_addr_isvalid(netif_ip6_addr_state(netif, i))
                && ip6_addr_cmp_zoneless(ip_2_ip6(addr), netif_ip6_addr(netif, i)))
                return netif;
    return NULL;
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
        if (is_outside(netif) && ip4_addr_isbroadcast(ip_2_ip4(addr), netif))
            return 1;
    return 0;
}

/* Whether what goes from one address to the other never sees the link: the cases in which
 * ip4_output_if_src() and ip6_output_if_src() hand a packet to netif_loop_output(). */
int nets_is_inside(const ip_addr_t *local, const ip_addr_t *remote)
{
    struct netif *netif = ip_route(local, remote);
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
    LWIP_UNUSED_ARG(netif);
    return link_send(p);
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
    return ERR_OK;
}

static err_t init_interface(struct netif *netif)
{
    netif->name[0] = 'v';
    netif->name[1] = 'p';
    netif->mtu = (u16_t)open_mtu;
    netif->linkoutput = link_output;
    netif->output = route_output4;
    netif->output_ip6 = route_output6;
    if (open_ethernet) {
        netif->hwaddr_len = ETH_HWADDR_LEN;
        memcpy(netif->hwaddr, open_mac, ETH_HWADDR_LEN);
        netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET
                       | NETIF_FLAG_IGMP | NETIF_FLAG_MLD6;
    }
    return ERR_OK;
}

static struct netif *add_netif(const ip4_addr_t *ip, const ip4_addr_t *mask)
{
    struct netif *netif;
    /* lwIP numbers them in a byte, and looks for a free number for ever. */
    if (netif_count == MOST_NETIFS || (netif = calloc(1, sizeof *netif)) == NULL)
        return NULL;
    if (netif_add(netif, ip, mask, NULL, NULL, init_interface,
                  open_ethernet ? ethernet_input : ip_input) == NULL) {
        free(netif);
        return NULL;
    }
    netif_count++;
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
    if (!is_outside(netif))
        return;
    free(netif);
    netif_count--;
}

int nets_open(const struct vp_config *config)
{
    ip4_addr_t home, mask;
    open_mtu = (int)LWIP_MIN(config->mtu, 0xffffu);
    open_ethernet = config->ethernet;
    memcpy(open_mac, config->mac, sizeof open_mac);
    IP4_ADDR(&home, 127, 0, 0, 1);
    IP4_ADDR(&mask, 255, 0, 0, 0);
    memset(&loopback, 0, sizeof loopback);
    if (netif_add(&loopback, &home, &mask, NULL, NULL, init_loopback, ip_input) == NULL)
        return -ENOMEM;
    ip_addr_copy_from_ip6(loopback.ip6_addr[1], *IP6_ADDR_ANY6);
    ip_2_ip6(&loopback.ip6_addr[1])->addr[3] = PP_HTONL(1);
    netif_ip6_addr_set_state(&loopback, 1, IP6_ADDR_PREFERRED);
    netif_set_link_up(&loopback);
    netif_set_up(&loopback);
    if ((first = add_netif(NULL, NULL)) == NULL)
        return -ENOMEM;
    netif_set_default(first);
    return 0;
}

void nets_close(void)
{
    for (int i = 0; i < LWIP_ND6_NUM_ROUTERS; i++)
        default_router_list[i].neighbor_entry = NULL;
    while (netif_list != NULL)
        remove_netif(netif_list);
    first = NULL;
    routes_clear();
}

static int add_v4(const struct vp_addr *addr, int prefix)
{
    ip4_addr_t ip, mask;
    memcpy(&ip.addr, addr->ip, 4);
    mask.addr = prefix ? lwip_htonl(0xffffffffu << (32 - prefix)) : 0;
    if (ip4_addr_isany_val(*netif_ip4_addr(first))) {
        netif_set_addr(first, &ip, &mask, IP4_ADDR_ANY4);
        return 0;
    }
    return add_netif(&ip, &mask) != NULL ? 0 : -ENOSPC;
}

/* Whoever has an address has a link-local one, with which neighbours are asked. */
static void add_link_local(void)
{
    if (!open_ethernet || !ip6_addr_isinvalid(netif_ip6_addr_state(first, 0)))
        return;
    netif_create_ip6_linklocal_address(first, 1);
    netif_ip6_addr_set_state(first, 0, IP6_ADDR_PREFERRED);
}

static int add_v6(const struct vp_addr *addr, int prefix)
{
    ip6_addr_t ip;
    s8_t index;
    memcpy(ip.addr, addr->ip, 16);
    ip6_addr_clear_zone(&ip);
    add_link_local();
    if (ip6_addr_islinklocal(&ip) && !ip6_addr_isinvalid(netif_ip6_addr_state(first, 0)))
        netif_ip6_addr_set_state(first, 0, IP6_ADDR_INVALID);
    if (netif_add_ip6_address(first, &ip, &index) != ERR_OK)
        return -ENOSPC;
    /* The administrator says that the address is this host's: no duplicate detection,
     * which would keep it unusable for a second. */
    netif_ip6_addr_set_state(first, index, IP6_ADDR_PREFERRED);
    return route_add_subnet(addr, prefix, first);
}

int vp_add_address(const struct vp_addr *addr, int prefix)
{
    ip_addr_t ip;
    int result;
    core_enter();
    route_address(addr, &ip);
    if (!core_is_open())
        result = -ENETDOWN;
    else if (nets_own_address(&ip))
        result = -EEXIST;
    else
        result = addr->family == 4 ? add_v4(addr, prefix) : add_v6(addr, prefix);
    core_leave();
    return result;
}

int vp_del_address(const struct vp_addr *addr)
{
    struct netif *netif;
    ip_addr_t ip;
    int result = 0;
    core_enter();
    route_address(addr, &ip);
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if ((netif = nets_of_address(&ip)) == NULL || !is_outside(netif)) {
        result = -EADDRNOTAVAIL;
    } else {
        route_forget_address(&ip, netif);
        if (addr->family == 6) {
            netif_ip6_addr_set_state(netif, netif_get_ip6_addr_match(netif, ip_2_ip6(&ip)),
                                     IP6_ADDR_INVALID);
        } else if (netif == first) {
            netif_set_addr(netif, IP4_ADDR_ANY4, IP4_ADDR_ANY4, IP4_ADDR_ANY4);
            etharp_cleanup_netif(netif);
        } else {
            remove_netif(netif);
        }
    }
    core_leave();
    return result;
}

int vp_set_mtu(uint32_t mtu)
{
    struct netif *netif;
    int result = -ENETDOWN;
    core_enter();
    if (core_is_open()) {
        NETIF_FOREACH(netif)
            if (is_outside(netif))
                netif->mtu = netif->mtu6 = (u16_t)mtu;
        nd6_clear_destination_cache();
        result = 0;
    }
    core_leave();
    return result;
}

int vp_link_local(struct vp_addr *out)
{
    int found = 0;
    memset(out, 0, sizeof *out);
    core_enter();
    if (core_is_open() && ip6_addr_isvalid(netif_ip6_addr_state(first, 0))) {
        out->family = 6;
        memcpy(out->ip, netif_ip6_addr(first, 0)->addr, 16);
        out->scope = netif_get_index(first);
        found = 1;
    }
    core_leave();
    return found;
}

/* lwIP answers for the one address of the netif that is asked. */
static struct netif *asked_by_arp(const u8_t *arp)
{
    struct netif *netif;
    NETIF_FOREACH(netif)
        if (is_outside(netif) && memcmp(&netif_ip4_addr(netif)->addr, arp + 24, 4) == 0)
            return netif;
    return first;
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

void nets_input(const u8_t *frame, size_t len)
{
    struct netif *netif = first;
    const u8_t *packet = frame;
    struct pbuf *p;
    enum verdict verdict;

    counters.rx_frames++;
    counters.rx_bytes += len;
    verdict = open_ethernet ? check_frame(frame, len, open_mac, (size_t)open_mtu)
                            : check_packet(frame, len, 1);
    if (!check_admits(verdict))
        return;
    if (open_ethernet) {
        packet = frame[12] == 0x08 && frame[13] == 0x00 ? frame + 14 : NULL;
        if (frame[12] == 0x08 && frame[13] == 0x06)
            netif = asked_by_arp(frame + 14);
    }
    /* Never PBUF_POOL: the package's pool has blocks that are smaller than what
     * pbuf_alloc fills. */
    p = pbuf_alloc(PBUF_RAW, (u16_t)len, PBUF_RAM);
    if (p == NULL)
        return;
    memcpy(p->payload, frame, len);
    if (input(netif, p, packet) != ERR_OK)
        pbuf_free(p);
}
