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
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SOCKET = 3 };

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

static void close_from(int first)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, first, ~0u, 0) == 0)
        return;
#endif
    struct rlimit limit;
    rlim_t end = getrlimit(RLIMIT_NOFILE, &limit) ? 1024 : limit.rlim_max;
    if (end > 1 << 20)
        end = 1 << 20;
    for (rlim_t fd = (rlim_t)first; fd < end; fd++)
        close((int)fd);
}

static int detach(int sock)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &standard, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (chdir("/"))
        return -1;
    if (sock != SOCKET && dup2(sock, SOCKET) < 0)
        return -1;
    int null = open("/dev/null", O_RDWR);
    if (null < 0)
        return -1;
    for (int fd = 0; fd < SOCKET; fd++)
        if (null != fd && dup2(null, fd) < 0)
            return -1;
    close_from(SOCKET + 1);
    prctl(PR_SET_NAME, "vpoll-fuse");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2 || detach(atoi(argv[1])))
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
