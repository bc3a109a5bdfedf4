/* A user namespace of one's own: what makes namespaces without privileges. */

#define _GNU_SOURCE
#include "daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t done = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return done < 0 ? -1 : 0;
}

const char *enter_user_namespace(int others)
{
    unsigned uid = geteuid(), gid = getegid();
    char map[32];
    if (unshare(CLONE_NEWUSER | others))
        return "unshare a user namespace";
    if (write_file("/proc/self/setgroups", "deny"))
        return "write /proc/self/setgroups";
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    if (write_file("/proc/self/uid_map", map))
        return "write /proc/self/uid_map";
    snprintf(map, sizeof map, "%u %u 1", gid, gid);
    if (write_file("/proc/self/gid_map", map))
        return "write /proc/self/gid_map";
    return NULL;
}
