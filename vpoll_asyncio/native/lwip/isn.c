/* Initial sequence numbers as RFC 6528 has them: a keyed hash of the connection plus a
 * clock.  lwIP's own start at a constant, so anybody could guess them. */

#include <sys/random.h>
#include <time.h>

#include "shim.h"
#include "lwip/priv/tcp_priv.h"

static uint64_t key[2];

void isn_seed(void)
{
    if (getrandom(key, sizeof key, 0) != (ssize_t)sizeof key) {
        key[0] = core_now_ms() * 0x9e3779b97f4a7c15u;
        key[1] = (uint64_t)(uintptr_t)&key ^ key[0];
    }
}

static uint64_t rotate(uint64_t x, int b)
{
    return x << b | x >> (64 - b);
}

static void round_of(uint64_t v[4])
{
    v[0] += v[1]; v[1] = rotate(v[1], 13) ^ v[0]; v[0] = rotate(v[0], 32);
    v[2] += v[3]; v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3]; v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1]; v[1] = rotate(v[1], 17) ^ v[2]; v[2] = rotate(v[2], 32);
}

/* SipHash-2-4 over whole words. */
static uint64_t siphash(const uint64_t *words, size_t count)
{
    uint64_t v[4] = {
        key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du,
        key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u,
    };
    for (size_t i = 0; i <= count; i++) {
        uint64_t m = i < count ? words[i] : (uint64_t)(count * 8) << 56;
        v[3] ^= m;
        round_of(v);
        round_of(v);
        v[0] ^= m;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        round_of(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static void address_words(const ip_addr_t *addr, uint64_t out[2])
{
    out[0] = out[1] = 0;
    if (IP_IS_V6(addr))
        memcpy(out, ip_2_ip6(addr)->addr, 16);
    else
        memcpy(out, &ip_2_ip4(addr)->addr, 4);
}

/* Interposed. */
__attribute__((visibility("default")))
u32_t tcp_next_iss(struct tcp_pcb *pcb)
{
    uint64_t words[5];
    struct timespec ts;
    address_words(&pcb->local_ip, words);
    address_words(&pcb->remote_ip, words + 2);
    words[4] = (uint64_t)pcb->local_port << 16 | pcb->remote_port;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (u32_t)siphash(words, 5)
           + (u32_t)((uint64_t)ts.tv_sec * 250000u + (uint64_t)ts.tv_nsec / 4000u);
}
