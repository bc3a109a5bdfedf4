/* Router discovery (RFC 4861) and addresses of routers' prefixes (RFC 4862), as far as lwIP
 * leaves something to do: what is valid, what ends at once, and which router is the best. */

#include "shim.h"
#include "lwip/icmp6.h"
#include "lwip/inet_chksum.h"
#include "lwip/nd6.h"
#include "lwip/priv/nd6_priv.h"
#include "lwip/prot/ethernet.h"
#include "lwip/prot/nd6.h"

/* RFC 4861, section 10: MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT. */
enum { MOST_PROBES = 3 };

enum { SOLICITATION = 133, ADVERTISEMENT = 134, REDIRECT = 137 };

/* Whoever has an address has a link-local one, with which neighbours are asked. */
void discovery_link_local(struct netif *first)
{
    if (!iface_of(first)->ethernet || !ip6_addr_isinvalid(netif_ip6_addr_state(first, 0)))
        return;
    netif_create_ip6_linklocal_address(first, 1);
    netif_ip6_addr_set_state(first, 0, IP6_ADDR_PREFERRED);
}

/* Send a solicitation, with our hardware address, from our link-local one. */
static void send_message(struct netif *netif, u8_t type, const ip6_addr_t *target,
                         const ip6_addr_t *group)
{
    const ip6_addr_t *source = netif_ip6_addr(netif, 0);
    u16_t head = target != NULL ? 24 : 8, len = (u16_t)(head + 8), sum;
    struct pbuf *p = pbuf_alloc(PBUF_IP, len, PBUF_RAM);
    u8_t *message;
    if (p == NULL)
        return;
    message = p->payload;
    memset(message, 0, len);
    message[0] = type;
    if (target != NULL)
        memcpy(message + 8, target->addr, 16);
    message[head] = ND6_OPTION_TYPE_SOURCE_LLADDR;
    message[head + 1] = 1;
    memcpy(message + head + 2, netif->hwaddr, ETH_HWADDR_LEN);
    sum = ip6_chksum_pseudo(p, IP6_NEXTH_ICMP6, len, source, group);
    memcpy(message + 2, &sum, 2);
    ip6_output_if(p, source, group, ND6_HOPLIM, 0, IP6_NEXTH_ICMP6, netif);
    pbuf_free(p);
}

static void solicit_neighbour(const struct nd6_neighbor_cache_entry *neighbour)
{
    ip6_addr_t group;
    ip6_addr_set_solicitednode(&group, neighbour->next_hop_address.addr[3]);
    ip6_addr_assign_zone(&group, IP6_MULTICAST, neighbour->netif);
    send_message(neighbour->netif, ICMP6_TYPE_NS, &neighbour->next_hop_address, &group);
}

/* lwIP's first solicitation would be up to four seconds away. */
static void solicit_routers(struct netif *netif)
{
    ip6_addr_t group;
    ip6_addr_set_allrouters_linklocal(&group);
    ip6_addr_assign_zone(&group, IP6_MULTICAST, netif);
    if (ip6_addr_isvalid(netif_ip6_addr_state(netif, 0)))
        send_message(netif, ICMP6_TYPE_RS, NULL, &group);
}

/* RFC 4861, section 6.3.7 and RFC 4862: lwIP solicits routers, and has what they advertise. */
int vp_autoconf(uint32_t index)
{
    struct iface *it;
    int result = 0;
    core_enter();
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if ((it = iface_by_index(index)) == NULL) {
        result = -ENODEV;
    } else {
        netif_set_ip6_autoconfig_enabled(it->first, 1);
        discovery_link_local(it->first);
        nd6_restart_netif(it->first);
        solicit_routers(it->first);
    }
    core_leave();
    return result;
}

/* The addresses that lwIP has made of prefixes, once nobody else has them. */
int vp_learned(uint32_t index, struct vp_addr *out, int most)
{
    struct iface *it;
    int count = 0;
    core_enter();
    it = core_is_open() ? iface_by_index(index) : NULL;
    for (int i = 1; it != NULL && i < LWIP_IPV6_NUM_ADDRESSES && count < most; i++) {
        if (!ip6_addr_isvalid(netif_ip6_addr_state(it->first, i))
            || netif_ip6_addr_isstatic(it->first, i))
            continue;
        out[count].family = 6;
        memcpy(out[count++].ip, netif_ip6_addr(it->first, i)->addr, 16);
    }
    core_leave();
    return count;
}

static int has_source(const struct netif *netif, const ip6_addr_t *target)
{
    for (int i = 0; i < LWIP_IPV6_NUM_ADDRESSES; i++)
        if (ip6_addr_isvalid(netif_ip6_addr_state(netif, i))
            && ip6_addr_netcmp(target, netif_ip6_addr(netif, i)))
            return 1;
    return 0;
}

/* RFC 4861, section 7.2.2: any address will do to ask for a neighbour.  lwIP wants one of the
 * neighbour's network, and is silent without: where a prefix gives no addresses, and behind
 * a route to a network of neighbours. */
static void solicit_where_lwip_does_not(int once_more)
{
    static u8_t asked[LWIP_ND6_NUM_NEIGHBORS];
    for (int i = 0; i < LWIP_ND6_NUM_NEIGHBORS; i++) {
        const struct nd6_neighbor_cache_entry *it = &neighbor_cache[i];
        int waits = (it->state == ND6_INCOMPLETE || it->state == ND6_PROBE)
                    && !has_source(it->netif, &it->next_hop_address)
                    && ip6_addr_isvalid(netif_ip6_addr_state(it->netif, 0));
        if (waits && (once_more || !asked[i]))
            solicit_neighbour(it);
        asked[i] = (u8_t)waits;
    }
}

/* After a packet may have been the first for a neighbour. */
void discovery_sent(void)
{
    solicit_where_lwip_does_not(0);
}

/* Once a second, after nd6_tmr(). */
void discovery_tick(void)
{
    solicit_where_lwip_does_not(1);
}

/* RFC 4861, sections 6.1, 7.1 and 8.1: a message of discovery at `at` of a packet of `len`
 * bytes, which has 8 there.  lwIP would act upon the options before one without a length. */
int discovery_is_sound(const u8_t *packet, size_t at, size_t len)
{
    static const u8_t headers[] = {8, 16, 24, 24, 40};
    unsigned type = packet[at];
    if (packet[7] != 255 || packet[at + 1] != 0)
        return 0;
    if ((type == ADVERTISEMENT || type == REDIRECT)
        && (packet[8] != 0xfe || (packet[9] & 0xc0) != 0x80))
        return 0;
    at += headers[type - SOLICITATION];
    while (at + 2 <= len) {
        if (packet[at + 1] == 0)
            return 0;
        at += packet[at + 1] * 8u;
    }
    return at == len;
}

/* A packet that check.c has let in. */
int discovery_is_advertisement(const u8_t *packet)
{
    return packet[6] == 58 && packet[40] == ADVERTISEMENT;
}

static void forget_router(struct nd6_router_list_entry *router)
{
    for (int i = 0; i < LWIP_ND6_NUM_DESTINATIONS; i++)
        if (ip6_addr_cmp(&destination_cache[i].next_hop_addr,
                         &router->neighbor_entry->next_hop_address))
            ip6_addr_set_any(&destination_cache[i].destination_addr);
    router->neighbor_entry->isrouter = 0;
    router->neighbor_entry = NULL;
    router->flags = 0;
}

/* After an advertisement: lwIP would use for up to a second what is to be used no more.  And
 * where there is another router, or one that is another thing now, the best is to be found. */
void discovery_settle(void)
{
    static struct nd6_router_list_entry before[LWIP_ND6_NUM_ROUTERS];
    int changed = 0;
    for (int i = 0; i < LWIP_ND6_NUM_ROUTERS; i++) {
        struct nd6_router_list_entry *router = &default_router_list[i];
        if (router->neighbor_entry != NULL && router->invalidation_timer == 0)
            forget_router(router);
        changed = changed || before[i].neighbor_entry != router->neighbor_entry
                  || before[i].flags != router->flags;
        before[i] = *router;
    }
    for (int i = 0; i < LWIP_ND6_NUM_PREFIXES; i++)
        if (prefix_list[i].netif != NULL && prefix_list[i].invalidation_timer == 0) {
            prefix_list[i].netif = NULL;
            changed = 1;
        }
    if (changed)
        nd6_clear_destination_cache();
}

/* RFC 4861, section 7.3.3: it has not answered. */
static int is_gone(const struct nd6_neighbor_cache_entry *neighbour)
{
    return (neighbour->state == ND6_INCOMPLETE || neighbour->state == ND6_PROBE)
           && neighbour->counter.probes_sent >= MOST_PROBES;
}

/* RFC 4191, section 2.2. */
static int rank(const struct nd6_router_list_entry *router)
{
    switch (router->flags & ND6_RA_PREFERENCE_MASK) {
    case ND6_RA_PREFERENCE_HIGH: return 3;
    case ND6_RA_PREFERENCE_LOW: return 1;
    default: return 2;
    }
}

/* Whether what goes to `hop` through the interface may get there. */
static int is_fine(const struct netif *netif, const ip6_addr_t *hop)
{
    for (int i = 0; i < LWIP_ND6_NUM_NEIGHBORS; i++)
        if (neighbor_cache[i].state != ND6_NO_ENTRY
            && ip6_addr_cmp(&neighbor_cache[i].next_hop_address, hop))
            return neighbor_cache[i].netif == netif && !is_gone(&neighbor_cache[i]);
    return !ip6_addr_has_zone(hop) || ip6_addr_zone(hop) == netif_get_index(netif);
}

/* RFC 4191, section 3.2: of the routers that are not known to be gone that with the highest
 * preference; lwIP has none, and stays with a router that does not answer. */
static const struct nd6_neighbor_cache_entry *best_router(const struct netif *netif)
{
    const struct nd6_neighbor_cache_entry *best = NULL;
    int best_rank = -1;
    for (int i = 0; i < LWIP_ND6_NUM_ROUTERS; i++) {
        const struct nd6_neighbor_cache_entry *router = default_router_list[i].neighbor_entry;
        int found;
        if (router == NULL || !netif_is_link_up(router->netif)
            || (netif != NULL && router->netif != netif))
            continue;
        found = rank(&default_router_list[i]) + (is_gone(router) ? 0 : 4);
        if (found > best_rank) {
            best_rank = found;
            best = router;
        }
    }
    return best;
}

/* The interface on which a destination is a neighbour by a prefix, of all or of one. */
static struct netif *on_link(const ip6_addr_t *dest, const struct netif *netif)
{
    for (int i = 0; i < LWIP_ND6_NUM_PREFIXES; i++) {
        struct netif *there = prefix_list[i].netif;
        if (there != NULL && (netif == NULL || there == netif) && netif_is_link_up(there)
            && prefix_list[i].invalidation_timer > 0
            && ip6_addr_netcmp(dest, &prefix_list[i].prefix))
            return there;
    }
    return NULL;
}

/* The interface for a destination that no route leads to, or NULL. */
struct netif *discovery_route(const ip6_addr_t *dest)
{
    const struct nd6_neighbor_cache_entry *router;
    struct netif *netif = on_link(dest, NULL);
    if (netif != NULL)
        return netif;
    router = best_router(NULL);
    return router != NULL ? router->netif : NULL;
}

/* The router for a destination that no route leads to, or NULL to leave the choice to lwIP,
 * where there is none or the way is found already, be it by a redirect. */
const ip6_addr_t *discovery_choose(const struct netif *netif, const ip6_addr_t *dest)
{
    const struct nd6_neighbor_cache_entry *router;
    for (int i = 0; i < LWIP_ND6_NUM_DESTINATIONS; i++)
        if (ip6_addr_cmp(&destination_cache[i].destination_addr, dest)
            && is_fine(netif, &destination_cache[i].next_hop_addr))
            return NULL;
    if (on_link(dest, netif) != NULL)
        return NULL;
    router = best_router(netif);
    return router != NULL ? &router->next_hop_address : NULL;
}
