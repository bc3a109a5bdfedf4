/* The network namespace and its one interface.
 *
 * A TAP belongs to the namespace of whoever opens /dev/net/tun, so it is opened in here;
 * the descriptor then works anywhere. */

#define _GNU_SOURCE
#include "namespace.h"
#include "../fuse/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const char *enter_namespace(void)
{
    if (unshare(CLONE_NEWNET) == 0)
        return NULL;
    if (errno != EPERM)
        return "unshare a network namespace";
    return enter_user_namespace(CLONE_NEWNET);
}

/* Everybody on this network is its user: every port may be bound, and pings sent.  Where
 * /proc/sys cannot be written, the kernel's own limits stay. */
static void lift_limits(void)
{
    char groups[32];
    write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    if (write_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")) {
        snprintf(groups, sizeof groups, "%u %u", getegid(), getegid());
        write_file("/proc/sys/net/ipv4/ping_group_range", groups);
    }
}

const char *make_network(const char *interface, int packets, int *device)
{
    struct ifreq request = {.ifr_flags = (short)((packets ? IFF_TUN : IFF_TAP) | IFF_NO_PI)};
    const char *failed = enter_namespace();
    if (failed)
        return failed;
    lift_limits();
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    *device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (*device < 0)
        return "open /dev/net/tun";
    if (ioctl(*device, TUNSETIFF, &request)) {
        int error = errno;
        close(*device);
        errno = error;
        return packets ? "make a TUN interface" : "make a TAP interface";
    }
    return NULL;
}
