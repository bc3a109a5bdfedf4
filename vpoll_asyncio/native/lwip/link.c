/* Frames in and out: a descriptor that C reads and writes itself, or batches through
 * Python.
 *
 * What the link does not take at once waits in a bounded queue.  When that is full, the
 * refusal reaches TCP, which keeps the segment and sends it once there is room: no
 * frame is lost to a busy link, as long as the traffic is TCP's. */

#include <unistd.h>

#include "shim.h"

enum { QUEUE = 512, FRAME = 65536 + 64 };

typedef ssize_t (*recv_function)(void *context, void *buf, size_t len, int flags);
typedef ssize_t (*send_function)(void *context, const void *buf, size_t len, int flags);

static struct {
    int native, fd, batch;
    recv_function recv;
    send_function send;
    void *context;
} port;

static struct { char *data; uint32_t len; } queue[QUEUE];
static unsigned queue_first, queue_count;
static int muted;
static char frame[FRAME];

int link_open(const struct vp_config *config)
{
    port.native = config->native;
    port.fd = config->fd;
    port.batch = config->batch > 0 ? config->batch : 1;
    port.recv = (recv_function)config->recv;
    port.send = (send_function)config->send;
    port.context = (void *)config->context;
    queue_first = queue_count = 0;
    muted = 0;
    return 0;
}

static void queue_pop(void)
{
    free(queue[queue_first].data);
    queue_first = (queue_first + 1) % QUEUE;
    queue_count--;
}

void link_close(void)
{
    while (queue_count > 0)
        queue_pop();
    port.native = 0;
    port.fd = -1;
}

/* Nothing leaves any more: the link is another process's. */
void link_mute(void)
{
    while (queue_count > 0)
        queue_pop();
    muted = 1;
}

int link_full(void)
{
    return queue_count == QUEUE;
}

unsigned link_queued(void)
{
    return queue_count;
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

static ssize_t hand_over(const void *data, size_t len)
{
    ssize_t n;
    errno = 0;
    n = port.send ? port.send(port.context, data, len, 0) : write(port.fd, data, len);
    if (n < 0)
        return errno ? -errno : -EIO;
    return n;
}

static void account(ssize_t n, size_t len)
{
    if (n >= 0) {
        counters.tx_frames++;
        counters.tx_bytes += len;
        return;
    }
    counters.tx_dropped++;
    if (suspect((int)-n))
        status.link_errno = (int32_t)-n;
}

err_t link_send(struct pbuf *p)
{
    const void *data = p->payload;
    size_t len = p->tot_len;
    char *copy;

    if (muted)
        return ERR_OK;
    if (queue_count == 0 && port.native) {
        ssize_t n;
        if (p->len != p->tot_len) {
            pbuf_copy_partial(p, frame, p->tot_len, 0);
            data = frame;
        }
        n = hand_over(data, len);
        if (n >= 0 || !transient((int)-n)) {
            account(n, len);
            return ERR_OK;
        }
    }
    if (queue_count == QUEUE) {
        counters.tx_deferred++;
        return ERR_MEM;
    }
    copy = malloc(len ? len : 1);
    if (copy == NULL)
        return ERR_MEM;
    pbuf_copy_partial(p, copy, p->tot_len, 0);
    queue[(queue_first + queue_count) % QUEUE].data = copy;
    queue[(queue_first + queue_count) % QUEUE].len = (uint32_t)len;
    queue_count++;
    return ERR_OK;
}

static void made_room(unsigned before)
{
    if (before == QUEUE && queue_count < QUEUE) {
        stream_push();
        sock_touch_datagrams();
    }
}

int link_flush(void)
{
    unsigned before = queue_count;
    while (port.native && queue_count > 0) {
        ssize_t n = hand_over(queue[queue_first].data, queue[queue_first].len);
        if (n < 0 && transient((int)-n))
            break;
        account(n, queue[queue_first].len);
        queue_pop();
    }
    made_room(before);
    return 0;
}

/* Feed one batch. */
void link_read(void)
{
    if (!port.native)
        return;
    for (int i = 0; i < port.batch; i++) {
        ssize_t n;
        errno = 0;
        n = port.recv ? port.recv(port.context, frame, sizeof frame, 0)
                      : read(port.fd, frame, sizeof frame);
        if (n < 0) {
            if (!transient(errno))
                status.link_errno = errno ? errno : EIO;
            else if (i == 0)
                /* Readable, and yet no frame: the link may know why. */
                status.link_errno = errno;
            return;
        }
        if (n == 0) {
            /* An empty datagram, or the end of a connected pair. */
            status.link_errno = EPIPE;
            return;
        }
        /* vde_recv(3): news of the plugin's own. */
        if (n == 1 && port.recv)
            continue;
        nets_input((const u8_t *)frame, (size_t)n);
    }
}

/* Move queued frames to Python, as many as fit; returns how many. */
int vp_drain(char *out, size_t size, uint32_t *lengths, int max)
{
    int count = 0;
    core_enter();
    unsigned before = queue_count;
    while (count < max && queue_count > 0 && queue[queue_first].len <= size) {
        uint32_t len = queue[queue_first].len;
        memcpy(out, queue[queue_first].data, len);
        out += len;
        size -= len;
        lengths[count++] = len;
        account((ssize_t)len, len);
        queue_pop();
    }
    made_room(before);
    core_leave();
    return count;
}
