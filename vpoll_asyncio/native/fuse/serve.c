/* Answering the kernel: every open file of the one file is a vpoll.
 *
 * write(2) of eight native-endian bytes, (command << 32) | events, operates it, as it
 * does an EFD_VPOLL; the ioctl requests of /dev/vpoll do the same and return the new
 * mask.  read(2) of exactly eight bytes returns the mask at once and leaves it.  Any
 * other size is EINVAL: whoever takes the descriptor for a stream of data is told.
 *
 * The kernel ends an operation only when it is answered, and waiters are notified
 * before the answer: who has set events knows that every waiter has been woken. */

#define _GNU_SOURCE
#include "daemon.h"
#include "protocol.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROOT = 1, FILE_NODE = 2, FILE_SIZE = 8 };
static const char file_name[] = "vpoll";

/* Nothing about the file ever changes. */
static const uint64_t for_ever = UINT64_C(1) << 30;

struct vpoll {
    uint32_t events;
    int polled;
    uint64_t kernel_handle;
};

static int device;

/* One part: the kernel pins the pages of every part of a writev by itself. */
static int send_message(uint64_t unique, int error, const void *body, size_t length)
{
    struct {
        struct out_header header;
        char body[sizeof(struct entry_out)];
    } message;
    size_t size = sizeof message.header + length;
    message.header = (struct out_header){(uint32_t)size, error, unique};
    if (length)
        memcpy(message.body, body, length);
    return write(device, &message, size) < 0 ? -1 : 0;
}

static void fail(const struct in_header *in, int error)
{
    send_message(in->unique, -error, NULL, 0);
}

static void answer(const struct in_header *in, const void *body, size_t length)
{
    send_message(in->unique, 0, body, length);
}

static struct vpoll *vpoll_of(uint64_t handle)
{
    return (struct vpoll *)(uintptr_t)handle;
}

static struct attr attributes(uint64_t node)
{
    return (struct attr){
        .ino = node,
        .size = node == ROOT ? 0 : FILE_SIZE,
        .mode = node == ROOT ? S_IFDIR | 0700 : S_IFREG | 0600,
        .nlink = node == ROOT ? 2 : 1,
        .uid = geteuid(),
        .gid = getegid(),
        .blksize = 4096,
    };
}

static void initialize(const struct in_header *in, const struct init_in *offer)
{
    struct init_out out = {
        .major = VERSION_MAJOR,
        .minor = offer->minor < VERSION_MINOR ? offer->minor : VERSION_MINOR,
        .max_write = 4096,
        .time_gran = 1,
    };
    answer(in, &out, sizeof out);
}

static void look_up(const struct in_header *in, const char *name)
{
    if (in->nodeid != ROOT || strcmp(name, file_name)) {
        fail(in, ENOENT);
        return;
    }
    struct entry_out out = {
        .nodeid = FILE_NODE,
        .entry_valid = for_ever,
        .attr_valid = for_ever,
        .attr = attributes(FILE_NODE),
    };
    answer(in, &out, sizeof out);
}

static void get_attributes(const struct in_header *in)
{
    struct attr_out out = {.attr_valid = for_ever, .attr = attributes(in->nodeid)};
    answer(in, &out, sizeof out);
}

static void open_vpoll(const struct in_header *in)
{
    struct vpoll *vpoll = in->nodeid == FILE_NODE ? calloc(1, sizeof *vpoll) : NULL;
    if (!vpoll) {
        fail(in, in->nodeid == FILE_NODE ? ENOMEM : EISDIR);
        return;
    }
    struct open_out out = {
        .handle = (uintptr_t)vpoll,
        .flags = OPEN_DIRECT_IO | OPEN_NONSEEKABLE | OPEN_STREAM | OPEN_NOFLUSH |
                 OPEN_PARALLEL_WRITES,
    };
    /* ENOENT: whoever opened it is gone, and nothing will be released. */
    if (send_message(in->unique, 0, &out, sizeof out) < 0 && errno == ENOENT)
        free(vpoll);
}

static void release(const struct in_header *in, const struct release_in *closed)
{
    free(vpoll_of(closed->handle));
    answer(in, NULL, 0);
}

/* Every operation is a wake-up, one that changes nothing too, and one that leaves nothing
 * pending: the order in which an epoll reports several descriptors comes of it. */
static int operate(struct vpoll *vpoll, uint32_t command, uint32_t events)
{
    if (events & ~KEPT_EVENTS)
        return -1;
    if (command == COMMAND_ADD)
        vpoll->events |= events;
    else if (command == COMMAND_DEL)
        vpoll->events &= ~events;
    else if (command == COMMAND_SET)
        vpoll->events = events;
    else
        return -1;
    if (vpoll->polled) {
        struct notify_poll out = {vpoll->kernel_handle};
        send_message(0, NOTIFY_POLL, &out, sizeof out);
    }
    return 0;
}

static void read_events(const struct in_header *in, const struct transfer_in *wanted)
{
    uint64_t events = vpoll_of(wanted->handle)->events;
    if (wanted->size == sizeof events)
        answer(in, &events, sizeof events);
    else
        fail(in, EINVAL);
}

static void write_command(const struct in_header *in, const struct transfer_in *given)
{
    uint64_t word;
    if (given->size != sizeof word) {
        fail(in, EINVAL);
        return;
    }
    memcpy(&word, given + 1, sizeof word);
    if (operate(vpoll_of(given->handle), (uint32_t)(word >> 32), (uint32_t)word)) {
        fail(in, EINVAL);
        return;
    }
    struct write_out out = {.size = sizeof word};
    answer(in, &out, sizeof out);
}

static void control(const struct in_header *in, const struct ioctl_in *given)
{
    struct vpoll *vpoll = vpoll_of(given->handle);
    uint32_t command = given->command - IOCTL_BASE;
    if (command < COMMAND_ADD || command > COMMAND_SET) {
        fail(in, ENOTTY);
        return;
    }
    /* The caller passes an int, of which the upper half of a register is no part. */
    if (operate(vpoll, command, (uint32_t)given->argument)) {
        fail(in, EINVAL);
        return;
    }
    struct ioctl_out out = {.result = (int32_t)vpoll->events};
    answer(in, &out, sizeof out);
}

static void poll_events(const struct in_header *in, const struct poll_in *asked)
{
    struct vpoll *vpoll = vpoll_of(asked->handle);
    vpoll->polled = 1;
    vpoll->kernel_handle = asked->kernel_handle;
    struct poll_out out = {.events = vpoll->events};
    answer(in, &out, sizeof out);
}

/* Returns whether there is more to come. */
static int handle(const struct in_header *in)
{
    const void *body = in + 1;
    switch (in->opcode) {
    case OP_POLL:
        poll_events(in, body);
        break;
    case OP_IOCTL:
        control(in, body);
        break;
    case OP_WRITE:
        write_command(in, body);
        break;
    case OP_READ:
        read_events(in, body);
        break;
    case OP_OPEN:
        open_vpoll(in);
        break;
    case OP_RELEASE:
        release(in, body);
        break;
    case OP_LOOKUP:
        look_up(in, body);
        break;
    case OP_GETATTR:
        get_attributes(in);
        break;
    case OP_INIT:
        initialize(in, body);
        break;
    case OP_FORGET:
    case OP_BATCH_FORGET:
        break;
    case OP_DESTROY:
        answer(in, NULL, 0);
        return 0;
    default:
        /* To INTERRUPT as well: no operation lasts long enough to be interrupted. */
        fail(in, ENOSYS);
    }
    return 1;
}

int serve(int opened)
{
    /* FUSE_MIN_READ_BUFFER is 8192; a write of max_write with its headers is less. */
    static _Alignas(8) char buffer[16384];
    device = opened;
    for (;;) {
        ssize_t got = read(device, buffer, sizeof buffer);
        if (got < 0) {
            /* ENOENT: the request was withdrawn while it was read. */
            if (errno == EINTR || errno == EAGAIN || errno == ENOENT)
                continue;
            return errno == ENODEV ? 0 : 1;
        }
        const struct in_header *in = (const void *)buffer;
        if ((size_t)got < sizeof *in || !handle(in))
            return 0;
    }
}
