/* Interfaces and addresses: which are ours, where frames go, what comes in.
 *
 * One lwIP netif has one IPv4 address, so each further one gets a netif of its own on
 * the same link.  IPv6 addresses are all on the first. */

#include "shim.h"
#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/nd6.h"
#include "lwip/priv/nd6_priv.h"
#include "netif/ethernet.h"

enum { INTERFACES = 8 };

#define LOOP_BROADCAST PP_HTONL(0x7fffffffu)

static struct netif nets[INTERFACES];
static int net_count;
static struct netif loopback;
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
    return net_count > 0 ? &nets[0] : NULL;
}

int nets_own_address(const ip_addr_t *addr)
{
    if (IP_IS_V4(addr)) {
        if (ip4_addr_isloopback(ip_2_ip4(addr)))
            return 1;
        for (int i = 0; i < net_count; i++)
            if (!ip4_addr_isany_val(*netif_ip4_addr(&nets[i]))
                && ip4_addr_cmp(ip_2_ip4(addr), netif_ip4_addr(&nets[i])))
                return 1;
        return 0;
    }
    if (ip6_addr_isloopback(ip_2_ip6(addr)))
        return 1;
    for (int i = 0; net_count > 0 && i < LWIP_IPV6_NUM_ADDRESSES; i++)
        if (ip6_addr_isvalid(netif_ip6_addr_state(&nets[0], i))
            && ip6_addr_cmp_zoneless(ip_2_ip6(addr), netif_ip6_addr(&nets[0], i)))
            return 1;
    return 0;
}

int nets_is_broadcast(const ip_addr_t *addr)
{
    if (!IP_IS_V4(addr))
        return 0;
    if (ip_2_ip4(addr)->addr == IPADDR_BROADCAST || ip_2_ip4(addr)->addr == LOOP_BROADCAST)
        return 1;
    for (int i = 0; i < net_count; i++)
        if (ip4_addr_isbroadcast(ip_2_ip4(addr), &nets[i]))
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

static err_t packet_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *addr)
{
    LWIP_UNUSED_ARG(netif);
    LWIP_UNUSED_ARG(addr);
    return link_send(p);
}

static err_t packet_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *addr)
{
    LWIP_UNUSED_ARG(netif);
    LWIP_UNUSED_ARG(addr);
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
    if (open_ethernet) {
        netif->hwaddr_len = ETH_HWADDR_LEN;
        memcpy(netif->hwaddr, open_mac, ETH_HWADDR_LEN);
        netif->output = etharp_output;
        netif->output_ip6 = ethip6_output;
        netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET
                       | NETIF_FLAG_MLD6;
    } else {
        netif->output = packet_output4;
        netif->output_ip6 = packet_output6;
    }
    return ERR_OK;
}

static struct netif *add_interface(const ip4_addr_t *ip, const ip4_addr_t *mask)
{
    struct netif *netif = &nets[net_count];
    memset(netif, 0, sizeof *netif);
    if (netif_add(netif, ip, mask, NULL, NULL, init_interface,
                  open_ethernet ? ethernet_input : ip_input) == NULL)
        return NULL;
    net_count++;
    if (net_count == 1)
        netif_set_default(netif);
    netif_set_link_up(netif);
    netif_set_up(netif);
    return netif;
}

int nets_open(const struct vp_config *config)
{
    ip4_addr_t home, mask;
    open_mtu = (int)LWIP_MIN(config->mtu, 0xffffu);
    open_ethernet = config->ethernet;
    memcpy(open_mac, config->mac, sizeof open_mac);
    net_count = 0;
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
    return 0;
}

void nets_close(void)
{
    for (int i = 0; i < LWIP_ND6_NUM_ROUTERS; i++)
        default_router_list[i].neighbor_entry = NULL;
    for (int i = net_count - 1; i >= -1; i--) {
        struct netif *netif = i < 0 ? &loopback : &nets[i];
        struct pbuf *p;
        netif_set_down(netif);
        netif_remove(netif);
        while ((p = nets_loop_pop(netif)) != NULL)
            pbuf_free(p);
    }
    net_count = 0;
}

static void set_bytes(ip6_addr_t *out, const uint8_t *ip)
{
    memcpy(out->addr, ip, 16);
    ip6_addr_clear_zone(out);
}

static int add_v4(const struct vp_addr *addr, int prefix)
{
    ip4_addr_t ip, mask;
    if (net_count == INTERFACES)
        return -ENOSPC;
    memcpy(&ip.addr, addr->ip, 4);
    mask.addr = prefix ? lwip_htonl(0xffffffffu << (32 - prefix)) : 0;
    return add_interface(&ip, &mask) != NULL ? 0 : -ENOMEM;
}

static int add_v6(const struct vp_addr *addr)
{
    ip6_addr_t ip;
    s8_t index;
    struct netif *netif = &nets[0];
    if (net_count == 0 && add_interface(NULL, NULL) == NULL)
        return -ENOMEM;
    if (open_ethernet && ip6_addr_isinvalid(netif_ip6_addr_state(netif, 0))) {
        netif_create_ip6_linklocal_address(netif, 1);
        netif_ip6_addr_set_state(netif, 0, IP6_ADDR_PREFERRED);
    }
    set_bytes(&ip, addr->ip);
    if (ip6_addr_islinklocal(&ip) && !ip6_addr_isinvalid(netif_ip6_addr_state(netif, 0)))
        netif_ip6_addr_set_state(netif, 0, IP6_ADDR_INVALID);
    if (netif_add_ip6_address(netif, &ip, &index) != ERR_OK)
        return -ENOSPC;
    /* The administrator says that the address is this host's: no duplicate detection,
     * which would keep it unusable for a second. */
    netif_ip6_addr_set_state(netif, index, IP6_ADDR_PREFERRED);
    return 0;
}

int vp_add_address(const struct vp_addr *addr, int prefix)
{
    int result;
    core_enter();
    if (!core_is_open())
        result = -ENETDOWN;
    else
        result = addr->family == 4 ? add_v4(addr, prefix) : add_v6(addr);
    core_leave();
    return result;
}

/* lwIP knows IPv6 routers from advertisements only; a configured one is entered in
 * its list as if advertised for ever. */
static int add_router(const struct vp_addr *addr)
{
    struct nd6_neighbor_cache_entry *neighbor = NULL;
    struct netif *netif = &nets[0];
    if (net_count == 0)
        return -ENETUNREACH;
    for (int i = 0; i < LWIP_ND6_NUM_NEIGHBORS && neighbor == NULL; i++)
        if (neighbor_cache[i].state == ND6_NO_ENTRY)
            neighbor = &neighbor_cache[i];
    for (int i = 0; i < LWIP_ND6_NUM_ROUTERS && neighbor != NULL; i++) {
        if (default_router_list[i].neighbor_entry != NULL)
            continue;
        set_bytes(&neighbor->next_hop_address, addr->ip);
        ip6_addr_assign_zone(&neighbor->next_hop_address, IP6_UNICAST, netif);
        neighbor->netif = netif;
        neighbor->q = NULL;
        neighbor->state = ND6_INCOMPLETE;
        neighbor->isrouter = 1;
        neighbor->counter.probes_sent = 0;
        default_router_list[i].neighbor_entry = neighbor;
        default_router_list[i].invalidation_timer = 0xffffffffu;
        default_router_list[i].flags = 0;
        nd6_tmr();
        return 0;
    }
    return -ENOSPC;
}

int vp_set_gateway(const struct vp_addr *addr)
{
    int result = -ENETUNREACH;
    core_enter();
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if (addr->family == 4) {
        ip4_addr_t gw;
        memcpy(&gw.addr, addr->ip, 4);
        for (int i = 0; i < net_count && result < 0; i++) {
            if (ip4_addr_isany_val(*netif_ip4_addr(&nets[i]))
                || !ip4_addr_netcmp(&gw, netif_ip4_addr(&nets[i]), netif_ip4_netmask(&nets[i])))
                continue;
            netif_set_gw(&nets[i], &gw);
            netif_set_default(&nets[i]);
            result = 0;
        }
    } else {
        /* Without Ethernet there are no neighbours: every packet goes to the other end. */
        result = open_ethernet ? add_router(addr) : 0;
    }
    core_leave();
    return result;
}

int vp_link_local(struct vp_addr *out)
{
    int found = 0;
    memset(out, 0, sizeof *out);
    core_enter();
    if (core_is_open() && net_count > 0 && ip6_addr_isvalid(netif_ip6_addr_state(&nets[0], 0))) {
        out->family = 6;
        memcpy(out->ip, netif_ip6_addr(&nets[0], 0)->addr, 16);
        out->scope = netif_get_index(&nets[0]);
        found = 1;
    }
    core_leave();
    return found;
}

void nets_input(const u8_t *frame, size_t len)
{
    struct netif *netif = &nets[0];
    struct pbuf *p;
    enum verdict verdict;

    counters.rx_frames++;
    counters.rx_bytes += len;
    if (net_count == 0) {
        counters.rx_foreign++;
        return;
    }
    verdict = open_ethernet ? check_frame(frame, len, open_mac, (size_t)open_mtu)
                            : check_packet(frame, len, 1);
    switch (verdict) {
    case PASS: break;
    case MALFORMED: counters.rx_malformed++; return;
    case FOREIGN: counters.rx_foreign++; return;
    case MARTIAN: counters.rx_martian++; return;
    case BACKLOG: counters.rx_backlog++; return;
    }
    if (open_ethernet && frame[12] == 0x08 && frame[13] == 0x06) {
        /* lwIP answers for the one address of the interface that asks. */
        for (int i = 0; i < net_count; i++)
            if (memcmp(&netif_ip4_addr(&nets[i])->addr, frame + 14 + 24, 4) == 0)
                netif = &nets[i];
    }
    /* Never PBUF_POOL: the package's pool has blocks that are smaller than what
     * pbuf_alloc fills. */
    p = pbuf_alloc(PBUF_RAW, (u16_t)len, PBUF_RAM);
    if (p == NULL)
        return;
    memcpy(p->payload, frame, len);
    if (netif->input(p, netif) != ERR_OK)
        pbuf_free(p);
}
