/* The least that a user-space stack on a TAP can do: epoll_wait(2), read(2), turn the frame
 * round, write(2).  No state, no timers, no interpreter.
 *
 *     tap_floor NAME ADDRESS [spin]
 *
 * A UDP datagram to ADDRESS goes back with addresses and ports swapped.  A TCP segment with
 * data goes back as the segment that a server's stack would answer with, data and
 * acknowledgement in one: the numbers that it needs are in the one that came.  With `spin`
 * it polls without ever sleeping.  Ends when its standard input does. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/if_ether.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { LONGEST = 2048 };

static union {
    struct {
        uint16_t aligning;      /* what follows the Ethernet header */
        struct ether_header ether;
        struct iphdr ip;
        union { struct udphdr udp; struct tcphdr tcp; };
    };
    unsigned char bytes[sizeof(uint16_t) + LONGEST];
} frame;

static unsigned char *const start = frame.bytes + sizeof frame.aligning;

enum { HEADERS = sizeof frame.ether + sizeof frame.ip + sizeof frame.tcp };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int open_tap(const char *name)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        fail("/dev/net/tun");
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        fail(name);
    return fd;
}

static uint32_t add_up(const void *data, size_t size, uint32_t sum)
{
    const uint8_t *bytes = data;
    for (; size > 1; bytes += 2, size -= 2)
        sum += (uint32_t)bytes[0] << 8 | bytes[1];
    return size ? sum + ((uint32_t)bytes[0] << 8) : sum;
}

static uint16_t checksum(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

/* Sums do not change when what they are of changes places. */
static void swap_addresses(void)
{
    uint8_t mac[ETH_ALEN];
    uint32_t source = frame.ip.saddr;
    memcpy(mac, frame.ether.ether_shost, ETH_ALEN);
    memcpy(frame.ether.ether_shost, frame.ether.ether_dhost, ETH_ALEN);
    memcpy(frame.ether.ether_dhost, mac, ETH_ALEN);
    frame.ip.saddr = frame.ip.daddr;
    frame.ip.daddr = source;
}

static size_t answer_udp(size_t size)
{
    uint16_t port = frame.udp.source;
    frame.udp.source = frame.udp.dest;
    frame.udp.dest = port;
    return size;
}

/* What goes back, 0 for nothing: a segment that only acknowledges needs no answer. */
static size_t answer_tcp(void)
{
    struct tcphdr *tcp = &frame.tcp;
    size_t header = (size_t)tcp->doff * 4, all = ntohs(frame.ip.tot_len) - sizeof frame.ip;
    const unsigned char *data = (const unsigned char *)tcp + header;
    size_t count = all < header ? 0 : all - header;
    uint32_t acknowledged = ntohl(tcp->seq) + (uint32_t)count + tcp->syn + tcp->fin;
    uint16_t port = tcp->source;
    struct { uint32_t from, to; uint8_t zero, protocol; uint16_t size; } pseudo;

    if (tcp->rst || (count == 0 && !tcp->syn && !tcp->fin))
        return 0;
    tcp->source = tcp->dest;
    tcp->dest = port;
    tcp->seq = tcp->syn ? htonl(1) : tcp->ack_seq;
    tcp->ack_seq = htonl(acknowledged);
    tcp->ack = 1;
    tcp->window = htons(65535);
    tcp->doff = sizeof *tcp / 4;
    memmove(tcp + 1, data, count);
    count += sizeof *tcp;
    pseudo.from = frame.ip.saddr;
    pseudo.to = frame.ip.daddr;
    pseudo.zero = 0;
    pseudo.protocol = IPPROTO_TCP;
    pseudo.size = htons((uint16_t)count);
    tcp->check = 0;
    tcp->check = checksum(add_up(tcp, count, add_up(&pseudo, sizeof pseudo, 0)));
    frame.ip.tot_len = htons((uint16_t)(count + sizeof frame.ip));
    frame.ip.check = 0;
    frame.ip.check = checksum(add_up(&frame.ip, sizeof frame.ip, 0));
    return count + sizeof frame.ip + sizeof frame.ether;
}

static size_t answer(size_t size, uint32_t address)
{
    if (size < HEADERS || frame.ether.ether_type != htons(ETHERTYPE_IP)
        || frame.ip.ihl != 5 || frame.ip.daddr != address)
        return 0;
    swap_addresses();
    return frame.ip.protocol == IPPROTO_UDP ? answer_udp(size)
           : frame.ip.protocol == IPPROTO_TCP ? answer_tcp() : 0;
}

static void watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

int main(int argc, char **argv)
{
    int tap, epoll, timeout = argc > 3 ? 0 : -1;
    uint32_t address;
    if (argc < 3 || inet_pton(AF_INET, argv[2], &address) != 1) {
        fputs("usage: tap_floor NAME ADDRESS [spin]\n", stderr);
        return 2;
    }
    tap = open_tap(argv[1]);
    if ((epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        fail("epoll_create1");
    watch(epoll, tap);
    watch(epoll, STDIN_FILENO);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event event;
        ssize_t size;
        int found = epoll_wait(epoll, &event, 1, timeout);
        if (found < 0 && errno != EINTR)
            fail("epoll_wait");
        if (found <= 0)
            continue;
        if (event.data.fd != tap)
            return 0;
        size = read(tap, start, LONGEST);
        if (size > 0 && (size = (ssize_t)answer((size_t)size, address)) > 0
            && write(tap, start, (size_t)size) < 0)
            fail("write");
    }
}
