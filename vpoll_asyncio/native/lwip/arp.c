/* ARP: for which addresses it is answered, and whether somebody has one already. */

#include "shim.h"
#include "netif/ethernet.h"

/* lwIP answers with the one address of the netif that is asked: here with that of whichever
 * interface (arp_rcv(), with arp_ignore 0), but through the one that the question came by. */
static err_t answer(struct iface *it, struct pbuf *p, const u8_t *arp)
{
    struct netif *netif, *asked = it->first;
    ip4_addr_t *own, home, wanted;
    err_t err;
    memcpy(&wanted.addr, arp + 24, 4);
    NETIF_FOREACH(netif)
        if (nets_is_outside(netif) && ip4_addr_cmp(netif_ip4_addr(netif), &wanted))
            asked = netif;
    if (iface_of(asked) == it || ip4_addr_isany_val(wanted))
        return asked->input(p, asked);
    own = ip_2_ip4(&it->first->ip_addr);
    home = *own;
    *own = wanted;
    err = it->first->input(p, it->first);
    *own = home;
    return err;
}

/* RFC 5227, section 2.1.1: whoever sends from the address has it, and whoever else asks
 * whether it is free is about to. */
static void look(struct iface *it, const u8_t *arp)
{
    u32_t sender, target;
    memcpy(&sender, arp + 14, 4);
    memcpy(&target, arp + 24, 4);
    if (memcmp(arp + 8, it->mac, 6) == 0
        || (sender != it->probed && !(sender == 0 && arp[7] == 1 && target == it->probed)))
        return;
    it->taken = 1;
    memcpy(it->taken_by, arp + 8, 6);
}

err_t arp_input(struct iface *it, struct pbuf *p, const u8_t *arp)
{
    if (it->probed)
        look(it, arp);
    return answer(it, p, arp);
}

static int send_probe(struct iface *it)
{
    static const u8_t head[] = {0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1};
    struct pbuf *p = pbuf_alloc(PBUF_RAW, 42, PBUF_RAM);
    u8_t *frame;
    err_t err;
    if (p == NULL)
        return -ENOBUFS;
    frame = p->payload;
    memset(frame, 0, 42);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, it->mac, 6);
    memcpy(frame + 12, head, sizeof head);
    memcpy(frame + 22, it->mac, 6);
    memcpy(frame + 38, &it->probed, 4);
    err = link_send(it, p);
    pbuf_free(p);
    return -errno_of(err);
}

/* Ask who has an address, without one of one's own; for another one than before what was heard
 * is forgotten.  An address of no family ends it. */
int vp_probe(uint32_t index, const struct vp_addr *addr)
{
    struct iface *it;
    u32_t wanted = 0;
    int result = 0;
    core_enter();
    if (addr->family == 4)
        memcpy(&wanted, addr->ip, 4);
    if (!core_is_open()) {
        result = -ENETDOWN;
    } else if ((it = iface_by_index(index)) == NULL) {
        result = -ENODEV;
    } else {
        if (wanted != it->probed)
            it->taken = 0;
        it->probed = wanted;
        if (wanted && it->ethernet)
            result = send_probe(it);
    }
    core_leave();
    return result;
}

/* Whether somebody has answered, and who. */
int vp_probed(uint32_t index, uint8_t *mac)
{
    struct iface *it;
    int taken = 0;
    core_enter();
    if ((it = iface_by_index(index)) != NULL && (taken = it->taken) != 0)
        memcpy(mac, it->taken_by, 6);
    core_leave();
    return taken;
}
