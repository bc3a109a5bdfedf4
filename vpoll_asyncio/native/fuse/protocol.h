/* The part of the kernel's FUSE protocol (7.31, Linux 5.2) that a vpoll needs, and the
 * vpoll's own commands.  Declared here rather than taken from <linux/fuse.h>, which
 * belongs to a package of kernel headers that need not be installed. */

#ifndef VPOLL_FUSE_PROTOCOL_H
#define VPOLL_FUSE_PROTOCOL_H

#include <stdint.h>

enum { VERSION_MAJOR = 7, VERSION_MINOR = 31 };

enum opcode {
    OP_LOOKUP = 1,
    OP_FORGET = 2,
    OP_GETATTR = 3,
    OP_OPEN = 14,
    OP_READ = 15,
    OP_WRITE = 16,
    OP_RELEASE = 18,
    OP_INIT = 26,
    OP_INTERRUPT = 36,
    OP_DESTROY = 38,
    OP_IOCTL = 39,
    OP_POLL = 40,
    OP_BATCH_FORGET = 42,
};

enum {
    OPEN_DIRECT_IO = 1 << 0,
    OPEN_NONSEEKABLE = 1 << 2,
    OPEN_STREAM = 1 << 4,
    OPEN_NOFLUSH = 1 << 5,
    OPEN_PARALLEL_WRITES = 1 << 6,
};

enum { NOTIFY_POLL = 1 };

struct in_header {
    uint32_t len;
    uint32_t opcode;
    uint64_t unique;
    uint64_t nodeid;
    uint32_t uid, gid, pid;
    uint16_t extensions, padding;
};

struct out_header {
    uint32_t len;
    int32_t error;
    uint64_t unique;
};

struct init_in {
    uint32_t major, minor;
};

struct init_out {
    uint32_t major, minor;
    uint32_t max_readahead;
    uint32_t flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write;
    uint32_t time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t reserved[8];
};

struct attr {
    uint64_t ino, size, blocks;
    uint64_t atime, mtime, ctime;
    uint32_t atimensec, mtimensec, ctimensec;
    uint32_t mode, nlink, uid, gid, rdev, blksize, flags;
};

struct entry_out {
    uint64_t nodeid, generation;
    uint64_t entry_valid, attr_valid;
    uint32_t entry_valid_nsec, attr_valid_nsec;
    struct attr attr;
};

struct attr_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec, padding;
    struct attr attr;
};

struct open_out {
    uint64_t handle;
    uint32_t flags;
    int32_t padding;
};

struct release_in {
    uint64_t handle;
};

/* The first fields of what READ and WRITE carry; the data of WRITE begin after 40 bytes. */
struct transfer_in {
    uint64_t handle, offset;
    uint32_t size, flags;
    uint64_t lock_owner;
    uint32_t open_flags, padding;
};

struct write_out {
    uint32_t size, padding;
};

struct ioctl_in {
    uint64_t handle;
    uint32_t flags, command;
    uint64_t argument;
    uint32_t in_size, out_size;
};

struct ioctl_out {
    int32_t result;
    uint32_t flags, in_iovs, out_iovs;
};

struct poll_in {
    uint64_t handle, kernel_handle;
    uint32_t flags, events;
};

struct poll_out {
    uint32_t events, padding;
};

struct notify_poll {
    uint64_t kernel_handle;
};

_Static_assert(sizeof(struct in_header) == 40, "fuse_in_header");
_Static_assert(sizeof(struct out_header) == 16, "fuse_out_header");
_Static_assert(sizeof(struct init_out) == 64, "fuse_init_out");
_Static_assert(sizeof(struct attr) == 88, "fuse_attr");
_Static_assert(sizeof(struct entry_out) == 128, "fuse_entry_out");
_Static_assert(sizeof(struct transfer_in) == 40, "fuse_read_in, fuse_write_in");
_Static_assert(sizeof(struct ioctl_in) == 32, "fuse_ioctl_in");

/* The event bits that a vpoll keeps, and the commands of EFD_VPOLL and /dev/vpoll. */
#define KEPT_EVENTS UINT32_C(0x0fffffff)
enum { COMMAND_ADD = 1, COMMAND_DEL = 2, COMMAND_SET = 3 };
enum { IOCTL_BASE = '^' << 8 };

#endif
