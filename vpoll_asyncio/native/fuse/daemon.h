/* Between the parts of the daemon, some of which serve other helper processes as well. */

#ifndef VPOLL_FUSE_DAEMON_H
#define VPOLL_FUSE_DAEMON_H

struct mounted {
    int device;    /* /dev/fuse */
    int directory; /* root of a mount that no mount table shows */
};

/* Make the mount, in a user namespace where that takes privileges this process lacks.
 * Returns NULL, or the step that failed, with errno set. */
const char *make_mount(struct mounted *mounted);

/* Answer the kernel until nobody holds a descriptor of the mount any more.
 * Returns the exit status. */
int serve(int device);

enum { SOCKET = 3 };

/* Leave the starter's session, signals, directory and descriptors, except `sock`, which
 * becomes SOCKET.  Returns 0, or -1. */
int detach(int sock, const char *name);

/* Write `text` to a file that exists; -1 on error. */
int write_file(const char *path, const char *text);

/* Enter a new user namespace, with the own user and group in it, and those namespaces that
 * `others` (CLONE_NEW...) says.  Returns NULL, or the step that failed, with errno set. */
const char *enter_user_namespace(int others);

/* Send `length` bytes and `count` descriptors over a UNIX socket; -1 on error. */
int send_descriptors(int sock, const void *data, unsigned length, const int *fds, unsigned count);

/* Receive what send_descriptors sent; returns the bytes received, -1 on error. */
int receive_descriptors(int sock, void *data, unsigned length, int *fds, unsigned count);

#endif
