/* Errors that come back by ICMP: lwIP ignores them, a kernel's sockets report them.
 *
 * Every ICMP packet is looked at on its way in, loopback included, and left to lwIP. */

#include "shim.h"

/* net/ipv4/icmp.c, icmp_err_convert: what is fatal to a socket. */
static int error_v4(unsigned code, int connecting)
{
    switch (code) {
    case 0: return connecting ? ENETUNREACH : 0;
    case 1: return connecting ? EHOSTUNREACH : 0;
    case 2: return ENOPROTOOPT;
    case 3: return ECONNREFUSED;
    case 6:
    case 9: return ENETUNREACH;
    case 7: return EHOSTDOWN;
    case 8: return ENONET;
    case 10:
    case 13:
    case 14:
    case 15: return EHOSTUNREACH;
    default: return 0;
    }
}

/* net/ipv6/icmp.c, icmpv6_err_convert. */
static int error_v6(unsigned code, int connecting)
{
    switch (code) {
    case 0: return connecting ? ENETUNREACH : 0;
    case 1: return EACCES;
    case 2:
    case 3: return connecting ? EHOSTUNREACH : 0;
    case 4: return ECONNREFUSED;
    case 5:
    case 6: return EACCES;
    default: return 0;
    }
}

/* `inner` is what we had sent: addresses and the first bytes of the transport header. */
static void report(unsigned protocol, const u8_t *inner, const ip_addr_t *from,
                   const ip_addr_t *to, int error)
{
    u16_t local_port = (u16_t)(inner[0] << 8 | inner[1]);
    u16_t remote_port = (u16_t)(inner[2] << 8 | inner[3]);
    if (error == 0)
        return;
    if (protocol == 17)
        dgram_unreachable(from, local_port, to, remote_port, error);
    else if (protocol == 6)
        stream_unreachable(from, local_port, to, remote_port,
                           (u32_t)inner[4] << 24 | (u32_t)inner[5] << 16
                               | (u32_t)inner[6] << 8 | inner[7], error);
    rawsock_unreachable(protocol, inner, from, to, error);
}

static void look4(const struct pbuf *p)
{
    u8_t d[60 + 8 + 60 + 8];
    u16_t len = pbuf_copy_partial(p, d, sizeof d, 0);
    size_t outer, inner;
    ip_addr_t from, to;
    if (len < 20 || (outer = (size_t)(d[0] & 15) * 4) + 8 + 20 > len || d[outer] != 3)
        return;
    inner = outer + 8;
    if (d[inner] >> 4 != 4 || inner + (size_t)(d[inner] & 15) * 4 + 8 > len)
        return;
    memset(&from, 0, sizeof from);
    memset(&to, 0, sizeof to);
    memcpy(&ip_2_ip4(&from)->addr, d + inner + 12, 4);
    memcpy(&ip_2_ip4(&to)->addr, d + inner + 16, 4);
    report(d[inner + 9], d + inner + (size_t)(d[inner] & 15) * 4, &from, &to,
           error_v4(d[outer + 1], d[inner + 9] == 6));
}

static void look6(const struct pbuf *p)
{
    u8_t d[40 + 8 + 40 + 8];
    ip_addr_t from, to;
    /* Extension headers, on either level, are more than errors of ours carry. */
    if (pbuf_copy_partial(p, d, sizeof d, 0) < sizeof d || d[6] != 58 || d[40] != 1
        || d[48] >> 4 != 6)
        return;
    memset(&from, 0, sizeof from);
    memset(&to, 0, sizeof to);
    IP_SET_TYPE_VAL(from, IPADDR_TYPE_V6);
    IP_SET_TYPE_VAL(to, IPADDR_TYPE_V6);
    memcpy(ip_2_ip6(&from)->addr, d + 48 + 8, 16);
    memcpy(ip_2_ip6(&to)->addr, d + 48 + 24, 16);
    report(d[48 + 6], d + 88, &from, &to, error_v6(d[41], d[48 + 6] == 6));
}

void icmp_look(const struct pbuf *p, int v6)
{
    if (v6)
        look6(p);
    else
        look4(p);
}
