/* What may reach lwIP at all.
 *
 * Its assertions abort the process, and some can be reached from the wire: so every
 * length, every header and every address is checked here first, on the contiguous
 * frame.  What is refused is dropped and counted. */

#include "shim.h"
#include "lwip/inet_chksum.h"
#include "lwip/ip6_addr.h"

/* Whether a packet of this verdict may pass; counts those that may not, for the interface that
 * it came in by or, with NULL, for none. */
int check_admits(struct iface *it, enum verdict verdict)
{
    struct vp_counters *of = it != NULL ? &it->counters : &counters;
    switch (verdict) {
    case PASS: return 1;
    case MALFORMED: of->rx_malformed++; break;
    case FOREIGN: of->rx_foreign++; break;
    case MARTIAN: of->rx_martian++; break;
    case BACKLOG: of->rx_backlog++; break;
    }
    return 0;
}

static unsigned get16(const u8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

/* lwIP takes a maximum segment size from any segment, and asserts that none it has
 * queued is longer; RFC 9293, 3.7.1 allows it with SYN only. */
static int tcp_options_ok(const u8_t *tcp, size_t header)
{
    int syn = tcp[13] & 0x02;
    for (size_t i = 20; i < header;) {
        unsigned kind = tcp[i], len;
        if (kind == 0)
            return 1;
        if (kind == 1) {
            i++;
            continue;
        }
        if (i + 1 >= header || (len = tcp[i + 1]) < 2 || i + len > header)
            return 0;
        if (kind == 2 && (!syn || len != 4))
            return 0;
        if (kind == 3 && (!syn || len != 3))
            return 0;
        i += len;
    }
    return 1;
}

/* RFC 4861, section 4: solicitations, advertisements, redirects. */
static int is_discovery(unsigned type)
{
    return type >= 133 && type <= 137;
}

/* `whole`: no fragment, so lengths inside can be compared with what is here. */
static enum verdict check_transport(const struct iface *it, unsigned protocol, const u8_t *p,
                                    size_t len, int whole, const ip_addr_t *src,
                                    const ip_addr_t *dest)
{
    switch (protocol) {
    case 6: {
        size_t header;
        if (len < 20)
            return MALFORMED;
        header = (size_t)(p[12] >> 4) * 4;
        if (header < 20 || header > len || !tcp_options_ok(p, header))
            return MALFORMED;
        if ((!whole || len - header + ((p[13] & 0x03) != 0) == 1)
            && stream_is_opposite(get16(p + 4) << 16 | get16(p + 6), src, (u16_t)get16(p), dest,
                                  (u16_t)get16(p + 2)))
            return MALFORMED;
        return stream_keeps_out(it, p[13] & 0x3f, get16(p + 4) << 16 | get16(p + 6), src,
                                (u16_t)get16(p), dest, (u16_t)get16(p + 2))
                   ? BACKLOG : PASS;
    }
    case 17:
        if (len < 8)
            return MALFORMED;
        if (whole && (get16(p + 4) < 8 || get16(p + 4) > len))
            return MALFORMED;
        return PASS;
    case 1:
        return len < 8 ? MALFORMED : PASS;
    case 58:
        if (len < 8)
            return MALFORMED;
        /* RFC 8201, section 4: no path has an MTU below 1280.  With less than a header's
         * worth lwIP cuts fragments for ever. */
        if (p[0] == 2 && ((get16(p + 4) << 16) | get16(p + 6)) < 1280)
            return MALFORMED;
        /* RFC 6980, section 5. */
        if (!whole && is_discovery(p[0]))
            return FOREIGN;
        /* RFC 4862, section 5.4: an address that passed the detection of duplicates stays.
         * lwIP would give up any that a neighbour advertises. */
        if (p[0] == 136 && len >= 24) {
            ip_addr_t target;
            memset(&target, 0, sizeof target);
            IP_SET_TYPE_VAL(target, IPADDR_TYPE_V6);
            memcpy(ip_2_ip6(&target)->addr, p + 8, 16);
            if (nets_of_address_at(&target, it) != NULL)
                return MARTIAN;
        }
        return PASS;
    case 2:
        return len < 8 ? MALFORMED : PASS;
    default:
        return PASS;
    }
}

static enum verdict check_v4(const struct iface *it, const u8_t *p, size_t len)
{
    ip_addr_t src, dest;
    size_t header, total, offset;
    int more;

    if (len < 20)
        return MALFORMED;
    header = (size_t)(p[0] & 15) * 4;
    total = get16(p + 2);
    if (header < 20 || total < header || total > len)
        return MALFORMED;
    /* lwIP looks as well, and says nothing. */
    if (it != NULL && inet_chksum(p, (u16_t)header) != 0)
        return MALFORMED;
    memset(&src, 0, sizeof src);
    memset(&dest, 0, sizeof dest);
    IP_SET_TYPE_VAL(src, IPADDR_TYPE_V4);
    IP_SET_TYPE_VAL(dest, IPADDR_TYPE_V4);
    memcpy(&ip_2_ip4(&src)->addr, p + 12, 4);
    memcpy(&ip_2_ip4(&dest)->addr, p + 16, 4);
    if (it != NULL) {
        /* RFC 9776, section 4.1.13: who asks for members may have no address yet. */
        int unnumbered = p[9] == 2 && ip_addr_isany(&src);
        if (p[16] == 127 || nets_own_address(&src) || (nets_is_broadcast(&src) && !unnumbered)
            || (p[12] & 0xf0) == 0xe0)
            return MARTIAN;
        /* lwIP would forward, between addresses of this one host. */
        if ((p[16] & 0xf0) != 0xe0 && !nets_own_address(&dest) && !nets_is_broadcast(&dest))
            return FOREIGN;
    }
    /* UDP-Lite, which lwIP must not see: a length of its own that is not the packet's fails
     * an assertion.  Raw sockets may ask for it. */
    if (p[9] == 136 && !rawsock_wants(0, 136))
        return FOREIGN;
    more = p[6] & 0x20;
    offset = (get16(p + 6) & 0x1fffu) * 8;
    if (more || offset) {
        size_t payload = total - header;
        if (payload == 0 || (more && payload % 8) || offset + payload > 65535u - 20u)
            return MALFORMED;
        if (offset)
            return PASS;
    }
    return check_transport(it, p[9], p + header, total - header, !more, &src, &dest);
}

static enum verdict check_v6(const struct iface *it, const u8_t *p, size_t len)
{
    ip_addr_t src, dest;
    size_t payload, at = 40;
    unsigned next = p[6];
    int multicast = p[24] == 0xff, whole = 1;

    if (len < 40)
        return MALFORMED;
    payload = get16(p + 4);
    /* 0 would announce a jumbogram. */
    if (payload == 0 || 40 + payload > len)
        return MALFORMED;
    memset(&src, 0, sizeof src);
    memset(&dest, 0, sizeof dest);
    IP_SET_TYPE_VAL(src, IPADDR_TYPE_V6);
    IP_SET_TYPE_VAL(dest, IPADDR_TYPE_V6);
    memcpy(ip_2_ip6(&src)->addr, p + 8, 16);
    memcpy(ip_2_ip6(&dest)->addr, p + 24, 16);
    if (it != NULL) {
        if (p[8] == 0xff || nets_of_address_at(&src, it) != NULL || ip6_addr_isloopback(ip_2_ip6(&dest))
            || ip6_addr_isipv4mappedipv6(ip_2_ip6(&src))
            || ip6_addr_isipv4mappedipv6(ip_2_ip6(&dest)))
            return MARTIAN;
        if (!multicast && nets_of_address_at(&dest, it) == NULL)
            return FOREIGN;
    }
    len = 40 + payload;
    if (next == 0) {
        /* Hop-by-hop options, which multicast listener reports carry.  Options that
         * lwIP would answer, or loop over, are not for it. */
        size_t header, i;
        if (at + 8 > len || at + (header = 8 * (1 + (size_t)p[at + 1])) > len)
            return MALFORMED;
        for (i = at + 2; i < at + header;) {
            if (p[i] == 0) {
                i++;
                continue;
            }
            if (i + 1 >= at + header || i + 2 + p[i + 1] > at + header)
                return MALFORMED;
            if (p[i] & 0xc0)
                return FOREIGN;
            i += 2 + (size_t)p[i + 1];
        }
        next = p[at];
        at += header;
        if (next != 58)
            return FOREIGN;
    }
    if (next == 44) {
        size_t offset, part;
        int more;
        if (at + 8 > len)
            return MALFORMED;
        next = p[at];
        more = p[at + 3] & 1;
        offset = get16(p + at + 2) & 0xfff8u;
        at += 8;
        part = len - at;
        if (part == 0 || (more && part % 8) || offset + part > 65535u - 40u)
            return MALFORMED;
        whole = !more && !offset;
        if (next != 6 && next != 17 && next != 58 && !rawsock_wants(1, next))
            return FOREIGN;
        if (offset)
            return PASS;
    }
    if (it != NULL && whole && next == 58 && at + 8 <= len && is_discovery(p[at])
        && !discovery_is_sound(p, at, len))
        return MALFORMED;
    switch (next) {
    case 6:
    case 17:
    case 58:
        return check_transport(it, next, p + at, len - at, whole, &src, &dest);
    case 59:
        return PASS;
    /* Headers that lwIP would look into. */
    case 0:
    case 43:
    case 44:
    case 60:
        return FOREIGN;
    default:
        return rawsock_wants(1, next) ? PASS : FOREIGN;
    }
}

/* `it`: where it came in; NULL for what the stack sends to itself. */
enum verdict check_packet(const struct iface *it, const u8_t *packet, size_t len)
{
    if (len < 1)
        return MALFORMED;
    switch (packet[0] >> 4) {
    case 4: return check_v4(it, packet, len);
    case 6: return len < 40 ? MALFORMED : check_v6(it, packet, len);
    default: return MALFORMED;
    }
}

static enum verdict check_arp(const u8_t *p, size_t len)
{
    if (len < 28 || get16(p) != 1 || get16(p + 2) != 0x0800 || p[4] != 6 || p[5] != 4)
        return MALFORMED;
    return PASS;
}

enum verdict check_frame(const struct iface *it, const u8_t *frame, size_t len)
{
    const u8_t *inner = frame + 14;
    if (len < 14)
        return MALFORMED;
    if (len > (size_t)it->mtu + 14)
        return MALFORMED;
    if (!(frame[0] & 1) && memcmp(frame, it->mac, 6) != 0)
        return FOREIGN;
    len -= 14;
    switch (get16(frame + 12)) {
    case 0x0806:
        return check_arp(inner, len);
    case 0x0800:
        if (len < 1 || inner[0] >> 4 != 4)
            return MALFORMED;
        return check_v4(it, inner, len);
    case 0x86dd:
        if (len < 40 || inner[0] >> 4 != 6)
            return MALFORMED;
        return check_v6(it, inner, len);
    default:
        return FOREIGN;
    }
}
