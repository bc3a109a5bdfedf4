/* What a daemon does first. */

#define _GNU_SOURCE
#include "daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

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

int detach(int sock, const char *name)
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
    prctl(PR_SET_NAME, name);
    return 0;
}
