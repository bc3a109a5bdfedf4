/* The Internet checksum (RFC 1071), interposed: lwIP's own adds two bytes at a time, and
 * was a fifth of what bulk data cost.  It is called for what is sent and what is received,
 * and lwIP has no way to leave it out for what a stack sends to itself. */

#include "shim.h"

/* Ones' complement addition commutes with the byte order, so words of any length may be
 * added up and folded at the end.  Returned is the sum, neither complemented nor swapped. */
__attribute__((visibility("default")))
u16_t lwip_standard_chksum(const void *dataptr, int len)
{
    const u8_t *data = dataptr;
    size_t left = len > 0 ? (size_t)len : 0;
    uint64_t sums[4] = {0, 0, 0, 0}, sum;
    uint32_t words[4];
    uint16_t word = 0;
    /* An accumulator holds 2^32 words of 32 bits. */
    for (; left >= sizeof words; left -= sizeof words, data += sizeof words) {
        memcpy(words, data, sizeof words);
        for (size_t i = 0; i < 4; i++)
            sums[i] += words[i];
    }
    sum = sums[0] + sums[1] + sums[2] + sums[3];
    for (; left >= sizeof word; left -= sizeof word, data += sizeof word) {
        memcpy(&word, data, sizeof word);
        sum += word;
    }
    if (left > 0) {
        word = 0;
        memcpy(&word, data, 1);
        sum += word;
    }
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (u16_t)sum;
}
