/* Between the parts of the helper. */

#ifndef VPOLL_VDESTACK_NAMESPACE_H
#define VPOLL_VDESTACK_NAMESPACE_H

/* Enter a network namespace of one's own, by a user namespace where that takes privileges
 * this process lacks, and make a TAP interface in it, or a TUN one if `packets`.
 * Returns NULL with the device's descriptor in `device`, or the step that failed, with
 * errno set. */
const char *make_network(const char *interface, int packets, int *device);

/* Make sockets for whoever asks over the socket `first`, until a request to end, the end
 * of the process `client`, or that of everybody who could ask. */
int serve_sockets(int first, int client);

#endif
