/* Making a mount of one's own that no mount table shows. */

#define _GNU_SOURCE
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The same numbers on every architecture that had no older call of its own there. */
#ifndef SYS_fsopen
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#endif

enum { FSOPEN_CLOSE_ON_EXEC = 1, FSMOUNT_CLOSE_ON_EXEC = 1 };
enum { CONFIG_FLAG = 0, CONFIG_STRING = 1, CONFIG_CREATE = 6 };
enum { ATTR_NOSUID = 2, ATTR_NODEV = 4, ATTR_NOEXEC = 8 };

struct owner {
    unsigned uid, gid;
};

static int set_number(int context, const char *key, const char *format, unsigned value)
{
    char text[16];
    snprintf(text, sizeof text, format, value);
    return (int)syscall(SYS_fsconfig, context, CONFIG_STRING, key, text, 0);
}

static const char *mount_here(struct owner owner, int others, struct mounted *mounted)
{
    const char *failed = NULL;
    int context = -1;
    mounted->device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    mounted->directory = -1;
    if (mounted->device < 0)
        return "open /dev/fuse";
    context = (int)syscall(SYS_fsopen, "fuse", FSOPEN_CLOSE_ON_EXEC);
    if (context < 0)
        failed = "fsopen fuse";
    else if (set_number(context, "fd", "%u", (unsigned)mounted->device) ||
             set_number(context, "rootmode", "%o", 040700) ||
             set_number(context, "user_id", "%u", owner.uid) ||
             set_number(context, "group_id", "%u", owner.gid) ||
             (others && syscall(SYS_fsconfig, context, CONFIG_FLAG, "allow_other", NULL, 0)) ||
             syscall(SYS_fsconfig, context, CONFIG_CREATE, NULL, NULL, 0))
        failed = "fsconfig fuse";
    else {
        mounted->directory = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOSE_ON_EXEC,
                                          ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
        if (mounted->directory < 0)
            failed = "fsmount fuse";
    }
    int error = errno;
    if (context >= 0)
        close(context);
    if (failed)
        close(mounted->device);
    errno = error;
    return failed;
}

struct outcome {
    int error;
    char step[64];
};

static void mount_and_send(int sock, struct owner owner)
{
    struct outcome outcome = {0};
    struct mounted mounted;
    const char *failed = enter_user_namespace(CLONE_NEWNS);
    if (!failed)
        failed = mount_here(owner, 0, &mounted);
    if (failed) {
        outcome.error = errno;
        strncpy(outcome.step, failed, sizeof outcome.step - 1);
    }
    int fds[] = {mounted.device, mounted.directory};
    _exit(send_descriptors(sock, &outcome, sizeof outcome, fds, failed ? 0 : 2) < 0);
}

/* A process of its own enters the namespaces and ends: the daemon that stayed in a copy
 * of the mount namespace would keep every file system busy that is mounted in it. */
static const char *mount_in_namespaces(struct owner owner, struct mounted *mounted)
{
    static struct outcome outcome;
    int pair[2], fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return "socketpair";
    pid_t child = fork();
    if (child < 0)
        return "fork";
    if (child == 0)
        mount_and_send(pair[1], owner);
    close(pair[1]);
    int got = receive_descriptors(pair[0], &outcome, sizeof outcome, fds, 2);
    int error = errno;
    close(pair[0]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    if (got != sizeof outcome) {
        errno = got < 0 ? error : EPIPE;
        return "mount in a user namespace";
    }
    if (outcome.error) {
        errno = outcome.error;
        return outcome.step;
    }
    mounted->device = fds[0];
    mounted->directory = fds[1];
    return NULL;
}

const char *make_mount(struct mounted *mounted)
{
    struct owner owner = {geteuid(), getegid()};
    const char *failed = mount_here(owner, 1, mounted);
    if (failed && errno == EPERM)
        failed = mount_in_namespaces(owner, mounted);
    return failed;
}
