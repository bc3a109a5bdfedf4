/* The daemon behind the `fuse` backend: `fuse SOCKET`.
 *
 * It detaches itself from whoever started it, makes one mount, sends a descriptor of its
 * root over the inherited UNIX socket and answers the kernel from then on.  It alone
 * holds /dev/fuse.  When the last descriptor of the mount is closed, by whatever end of
 * its holders, the kernel takes the mount down and the daemon ends.
 *
 * The message is two native 32-bit integers, an errno (0: success) and the daemon's
 * process id, and then, on failure, the step that failed. */

#define _GNU_SOURCE
#include "daemon.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

int main(int argc, char **argv)
{
    if (argc != 2 || detach(atoi(argv[1]), "vpoll-fuse"))
        return 2;
    struct mounted mounted;
    const char *failed = make_mount(&mounted);
    if (failed) {
        report(errno, failed);
        return 1;
    }
    int32_t message[2] = {0, getpid()};
    if (send_descriptors(SOCKET, message, sizeof message, &mounted.directory, 1) < 0)
        return 1;
    close(mounted.directory);
    close(SOCKET);
    return serve(mounted.device);
}
