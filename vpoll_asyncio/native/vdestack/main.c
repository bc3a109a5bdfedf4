/* The helper of the `vdestack` stack: `vdestack SOCKET INTERFACE tap|tun`.
 *
 * It detaches itself from whoever started it, makes a network namespace with one
 * interface, sends the interface's descriptor over the inherited UNIX socket and makes
 * sockets in the namespace from then on.  The namespace needs a process in it only for
 * that: sockets that were handed over, and the interface, live on without it.
 *
 * The message is two native 32-bit integers, an errno (0: success) and the helper's
 * process id, and then, on failure, the step that failed. */

#define _GNU_SOURCE
#include "namespace.h"
#include "../fuse/daemon.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static int report(int error, const char *step)
{
    struct {
        int32_t error, pid;
        char step[120];
    } message = {.error = error, .pid = getpid()};
    size_t length = strnlen(step, sizeof message.step);
    memcpy(message.step, step, length);
    return send_descriptors(SOCKET, &message, (unsigned)(8 + length), NULL, 0);
}

/* Whoever made the pair of sockets; children of its may hold the other end as well.
 * Returns whether it lives, with its descriptor or, on a kernel that has none, -1. */
static int watch_client(int *client)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    *client = -1;
    if (getsockopt(SOCKET, SOL_SOCKET, SO_PEERCRED, &peer, &size) || peer.pid <= 0)
        return 1;
    *client = (int)syscall(SYS_pidfd_open, peer.pid, 0);
    return *client >= 0 || errno != ESRCH;
}

int main(int argc, char **argv)
{
    if (argc != 4 || detach(atoi(argv[1]), "vpoll-vdestack"))
        return 2;
    int client, device;
    if (!watch_client(&client))
        return 1;
    const char *failed = make_network(argv[2], !strcmp(argv[3], "tun"), &device);
    if (failed) {
        report(errno, failed);
        return 1;
    }
    int32_t message[2] = {0, getpid()};
    if (send_descriptors(SOCKET, message, sizeof message, &device, 1) < 0)
        return 1;
    close(device);
    return serve_sockets(SOCKET, client);
}
