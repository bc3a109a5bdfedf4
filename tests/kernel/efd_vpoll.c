// SPDX-License-Identifier: GPL-2.0
/*
 * EFD_VPOLL on a stock kernel: eventfd2(mask, EFD_VPOLL | ...) gives a descriptor whose
 * pending poll events user space sets.
 *
 * Written from the interface that the EFD_VPOLL proposal publishes (linux-fsdevel, 31 May
 * 2019) and from what a kernel patched with it was measured to do, for the tests alone:
 *
 *   eventfd2   the initial value is the first mask; bits above 27 are dropped
 *   write(2)   eight bytes, (command << 32) | mask, command 1 (add), 2 (delete) or 3 (set);
 *              EINVAL, and nothing changes, for fewer bytes, another command or bits 28-31
 *   read(2)    the mask in eight bytes, at once; nothing is cleared; EINVAL for fewer bytes
 *   poll       the mask; every successful write wakes all waiters with the whole of it
 *
 * The system call table cannot be changed by a module, so a kprobe at the entry of
 * eventfd2 sends the calls that carry the flag to take_over() instead.
 */
#include <linux/anon_inodes.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/ptrace.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#define EFD_VPOLL	(1 << 1)
#define EFD_SHARED	(O_CLOEXEC | O_NONBLOCK)
#define EFD_SEMAPHORE	(1 << 0)

#define KEPT		0x0fffffffU

enum command { ADD = 1, DEL = 2, SET = 3 };

struct vpoll {
	wait_queue_head_t waiters;	/* its lock guards events */
	u32 events;
};

static __poll_t vpoll_poll(struct file *file, poll_table *table)
{
	struct vpoll *vpoll = file->private_data;

	poll_wait(file, &vpoll->waiters, table);
	return (__force __poll_t)READ_ONCE(vpoll->events);
}

static ssize_t vpoll_read(struct file *file, char __user *to, size_t size, loff_t *pos)
{
	struct vpoll *vpoll = file->private_data;
	u64 value = READ_ONCE(vpoll->events);

	if (size < sizeof(value))
		return -EINVAL;
	return copy_to_user(to, &value, sizeof(value)) ? -EFAULT : sizeof(value);
}

/* Return what the command makes of the mask; false for what is no command. */
static bool changed(u32 *events, u32 command, u32 mask)
{
	switch (command) {
	case ADD:
		*events |= mask;
		return true;
	case DEL:
		*events &= ~mask;
		return true;
	case SET:
		*events = mask;
		return true;
	}
	return false;
}

static ssize_t vpoll_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	struct vpoll *vpoll = file->private_data;
	u32 mask, events;
	u64 value;
	bool known;

	if (size < sizeof(value))
		return -EINVAL;
	if (copy_from_user(&value, from, sizeof(value)))
		return -EFAULT;
	mask = lower_32_bits(value);
	if (mask & ~KEPT)
		return -EINVAL;

	spin_lock_irq(&vpoll->waiters.lock);
	events = vpoll->events;
	known = changed(&events, upper_32_bits(value), mask);
	if (known) {
		WRITE_ONCE(vpoll->events, events);
		wake_up_locked_poll(&vpoll->waiters, (__force __poll_t)events);
	}
	spin_unlock_irq(&vpoll->waiters.lock);
	return known ? sizeof(value) : -EINVAL;
}

static int vpoll_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static const struct file_operations vpoll_operations = {
	.owner = THIS_MODULE,
	.poll = vpoll_poll,
	.read = vpoll_read,
	.write = vpoll_write,
	.release = vpoll_release,
	.llseek = noop_llseek,
};

/* Runs in place of __x64_sys_eventfd2, with its argument: the caller's registers. */
static long take_over(const struct pt_regs *caller)
{
	unsigned int first = caller->di;
	int flags = caller->si;
	struct vpoll *vpoll;
	int fd;

	if (flags & ~(EFD_SHARED | EFD_SEMAPHORE | EFD_VPOLL))
		return -EINVAL;
	vpoll = kmalloc(sizeof(*vpoll), GFP_KERNEL_ACCOUNT);
	if (!vpoll)
		return -ENOMEM;
	init_waitqueue_head(&vpoll->waiters);
	vpoll->events = first & KEPT;
	fd = anon_inode_getfd("[eventfd]", &vpoll_operations, vpoll,
			      O_RDWR | (flags & EFD_SHARED));
	if (fd < 0)
		kfree(vpoll);
	return fd;
}

static int at_entry(struct kprobe *probe, struct pt_regs *regs)
{
	const struct pt_regs *caller = (const struct pt_regs *)regs->di;

	if (!(caller->si & EFD_VPOLL))
		return 0;
	regs->ip = (unsigned long)take_over;
	return 1;
}
NOKPROBE_SYMBOL(at_entry);

static struct kprobe probe = {
	.symbol_name = "__x64_sys_eventfd2",
	.pre_handler = at_entry,
};

static int __init efd_vpoll_init(void)
{
	return register_kprobe(&probe);
}
module_init(efd_vpoll_init);

/* No module_exit: a call of take_over() may be under way at any time, so this stays. */

MODULE_LICENSE("GPL v2");
MODULE_AUTHOR("The vpoll_asyncio authors");
MODULE_DESCRIPTION("EFD_VPOLL for the tests of vpoll_asyncio");
