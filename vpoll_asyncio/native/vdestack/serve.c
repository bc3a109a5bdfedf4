/* Making sockets on request.
 *
 * A request is five native 32-bit integers: an operation, a number that the answer
 * repeats, and for OP_SOCKET the three arguments of socket(2).  The answer is the number
 * and an errno, or when that is 0 two of these: one with the socket, and one that says that
 * nobody else has it any more, so that closing it ends it.  OP_CHANNEL brings another socket
 * to ask over and has no answer, and neither has OP_END. */

#define _GNU_SOURCE
#include "namespace.h"
#include "../fuse/daemon.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OP_SOCKET = 1, OP_CHANNEL = 2, OP_END = 3 };

struct request {
    int32_t operation, number, family, type, protocol;
};

struct answer {
    int32_t number, error;
};

/* The first watches the client's process, the others are channels. */
static struct pollfd *watched;
static nfds_t count;

static void watch(int fd)
{
    struct pollfd *grown = realloc(watched, (count + 1) * sizeof *watched);
    if (!grown) {
        close(fd);
        return;
    }
    watched = grown;
    watched[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

static void make_socket(int channel, const struct request *request)
{
    int fd = socket(request->family, request->type | SOCK_CLOEXEC, request->protocol);
    struct answer answer = {request->number, fd < 0 ? errno : 0};
    if (fd >= 0) {
        send_descriptors(channel, &answer, sizeof answer, &fd, 1);
        close(fd);
    }
    send_descriptors(channel, &answer, sizeof answer, NULL, 0);
}

enum verdict { STAY, GONE, END };

static enum verdict take_request(int channel)
{
    struct request request = {0};
    int fd = -1;
    int got = receive_descriptors(channel, &request, sizeof request, &fd, 1);
    if (got <= 0)
        return got < 0 && errno == EAGAIN ? STAY : GONE;
    if (got == sizeof request && request.operation == OP_CHANNEL && fd >= 0) {
        watch(fd);
        return STAY;
    }
    if (fd >= 0)
        close(fd);
    if (got == sizeof request && request.operation == OP_SOCKET)
        make_socket(channel, &request);
    return got == sizeof request && request.operation == OP_END ? END : STAY;
}

int serve_sockets(int first, int client)
{
    /* poll(2) skips what is negative: a kernel without pidfd_open(2). */
    watch(client);
    watch(first);
    while (count > 1) {
        if (poll(watched, count, -1) < 0) {
            if (errno == EINTR)
                continue;
            return 1;
        }
        if (watched[0].revents)
            return 0;
        /* From the end: a channel that goes is replaced by the last one, seen already. */
        for (nfds_t i = count - 1; i > 0; i--) {
            if (!watched[i].revents)
                continue;
            enum verdict verdict = take_request(watched[i].fd);
            if (verdict == END)
                return 0;
            if (verdict == GONE) {
                close(watched[i].fd);
                watched[i] = watched[--count];
            }
        }
    }
    return 0;
}
