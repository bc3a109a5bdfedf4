/* Frames in and out: a descriptor that C reads and writes itself, or batches through
 * Python.
 *
 * What the link does not take at once waits in a bounded queue.  When that is full, the
 * refusal reaches TCP, which keeps the segment and sends it once there is room: no
 * frame is lost to a busy link, as long as the traffic is TCP's. */

#include <unistd.h>

#include "shim.h"

enum { FRAME = 65536 + 64 };

static char frame[FRAME];

void link_open(struct iface *it, const struct vp_config *config)
{
    struct port *port = &it->port;
    port->native = config->native;
    port->fd = config->fd;
    port->batch = config->batch > 0 ? config->batch : 1;
    memcpy(&port->recv, &config->recv, sizeof port->recv);
    memcpy(&port->send, &config->send, sizeof port->send);
    port->context = (void *)config->context;
    port->shown = config->port;
}

static void queue_pop(struct port *port)
{
    free(port->queue[port->first].data);
    port->first = (port->first + 1) % LINK_QUEUE;
    port->count--;
}

static void empty(struct port *port)
{
    while (port->count > 0)
        queue_pop(port);
}

void link_close(struct iface *it)
{
    empty(&it->port);
    it->port.shown->queued = 0;
}

/* Nothing leaves any more: the link is another process's. */
void link_mute(struct iface *it)
{
    empty(&it->port);
    it->port.muted = 1;
}

int link_full(const struct iface *it)
{
    return it->port.count == LINK_QUEUE;
}

/* Whether no interface has room: then no datagram could be sent. */
int links_full(void)
{
    const struct iface *it = ifaces_first();
    if (it == NULL)
        return 0;
    while (it != NULL && link_full(it))
        it = it->next;
    return it == NULL;
}

static void made_room(const struct iface *it, unsigned before)
{
    if (before == LINK_QUEUE && it->port.count < LINK_QUEUE) {
        stream_push();
        sock_touch_datagrams();
    }
}

void link_drop(struct iface *it)
{
    unsigned before = it->port.count;
    it->counters.tx_dropped += before;
    empty(&it->port);
    made_room(it, before);
}

static int transient(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* Errors after which perhaps no frame will ever pass again, which only the link can
 * tell; others concern one frame. */
static int suspect(int error)
{
    return error == EBADF || error == ENODEV || error == ENXIO || error == EPIPE
           || error == ECONNRESET || error == ECONNREFUSED || error == ENOTCONN
           || error == EBADFD;
}

static ssize_t hand_over(const struct port *port, const void *data, size_t len)
{
    ssize_t n;
    errno = 0;
    n = port->send ? port->send(port->context, data, len, 0) : write(port->fd, data, len);
    if (n < 0)
        return errno ? -errno : -EIO;
    return n;
}

static void failed(struct iface *it, int error)
{
    it->port.shown->link_errno = error;
    status.link_errno = error;
}

static void account(struct iface *it, ssize_t n, size_t len)
{
    if (n >= 0) {
        it->counters.tx_frames++;
        it->counters.tx_bytes += len;
        return;
    }
    it->counters.tx_dropped++;
    if (suspect((int)-n))
        failed(it, (int)-n);
}

err_t link_send(struct iface *it, struct pbuf *p)
{
    struct port *port = &it->port;
    const void *data = p->payload;
    size_t len = p->tot_len;
    unsigned end;
    char *copy;

    if (port->muted || !it->up) {
        it->counters.tx_dropped++;
        return ERR_OK;
    }
    if (port->count == 0 && port->native) {
        ssize_t n;
        if (p->len != p->tot_len) {
            pbuf_copy_partial(p, frame, p->tot_len, 0);
            data = frame;
        }
        n = hand_over(port, data, len);
        if (n >= 0 || !transient((int)-n)) {
            account(it, n, len);
            return ERR_OK;
        }
    }
    if (port->count == LINK_QUEUE) {
        it->counters.tx_deferred++;
        return ERR_MEM;
    }
    copy = malloc(len ? len : 1);
    if (copy == NULL)
        return ERR_MEM;
    pbuf_copy_partial(p, copy, p->tot_len, 0);
    end = (port->first + port->count) % LINK_QUEUE;
    port->queue[end].data = copy;
    port->queue[end].len = (uint32_t)len;
    port->count++;
    return ERR_OK;
}

void link_flush(struct iface *it)
{
    struct port *port = &it->port;
    unsigned before = port->count;
    while (port->native && port->count > 0) {
        uint32_t len = port->queue[port->first].len;
        ssize_t n = hand_over(port, port->queue[port->first].data, len);
        if (n < 0 && transient((int)-n))
            break;
        account(it, n, len);
        queue_pop(port);
    }
    made_room(it, before);
}

/* Feed one batch. */
void link_read(struct iface *it)
{
    const struct port *port = &it->port;
    if (!port->native)
        return;
    for (int i = 0; i < port->batch; i++) {
        ssize_t n;
        errno = 0;
        n = port->recv ? port->recv(port->context, frame, sizeof frame, 0)
                       : read(port->fd, frame, sizeof frame);
        if (n < 0) {
            if (!transient(errno))
                failed(it, errno ? errno : EIO);
            else if (i == 0)
                /* Readable, and yet no frame: the link may know why. */
                failed(it, errno);
            return;
        }
        if (n == 0) {
            /* An empty datagram, or the end of a connected pair. */
            failed(it, EPIPE);
            return;
        }
        /* vde_recv(3): news of the plugin's own. */
        if (n == 1 && port->recv)
            continue;
        nets_input(it, (const u8_t *)frame, (size_t)n);
    }
}

/* Move queued frames to Python, as many as fit; returns how many. */
int vp_drain(uint32_t index, char *out, size_t size, uint32_t *lengths, int max)
{
    struct iface *it;
    int count = 0;
    core_enter();
    if ((it = iface_by_index(index)) != NULL) {
        struct port *port = &it->port;
        unsigned before = port->count;
        while (count < max && port->count > 0 && port->queue[port->first].len <= size) {
            uint32_t len = port->queue[port->first].len;
            memcpy(out, port->queue[port->first].data, len);
            out += len;
            size -= len;
            lengths[count++] = len;
            account(it, (ssize_t)len, len);
            queue_pop(port);
        }
        made_room(it, before);
    }
    core_leave();
    return count;
}

/* The link is broken for good: what is sent from now on is lost at once. */
int vp_lose_link(uint32_t index)
{
    struct iface *it;
    int result = 0;
    core_enter();
    if ((it = iface_by_index(index)) != NULL) {
        link_drop(it);
        it->port.muted = 1;
    } else {
        result = -ENODEV;
    }
    core_leave();
    return result;
}
