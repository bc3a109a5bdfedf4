/* The table of sockets, and those whose mask waits to be shown.
 *
 * A socket is named by a number that is never used again, so a call that races with
 * close() in another thread finds EBADF and not somebody else's socket. */

#include "shim.h"

enum { INDEX_BITS = 20, LIMIT = 1 << INDEX_BITS };

static struct sock **table;
static size_t table_size;
static uint32_t *unused;        /* stack of free indices */
static size_t unused_count;
static uint64_t generation;
static struct sock *dirty_first, *dirty_last;
static uint32_t dirty_count;

static int grow(void)
{
    size_t size = table_size ? table_size * 2 : 64;
    struct sock **bigger;
    uint32_t *more;
    if (size > LIMIT)
        return -1;
    bigger = realloc(table, size * sizeof *table);
    if (bigger == NULL)
        return -1;
    table = bigger;
    more = realloc(unused, size * sizeof *unused);
    if (more == NULL)
        return -1;
    unused = more;
    for (size_t i = size; i-- > table_size;) {
        table[i] = NULL;
        unused[unused_count++] = (uint32_t)i;
    }
    table_size = size;
    return 0;
}

struct sock *sock_new(int v6, int stream)
{
    struct sock *s;
    uint32_t index;
    if (unused_count == 0 && grow() < 0)
        return NULL;
    s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    index = unused[--unused_count];
    s->handle = ++generation << INDEX_BITS | index;
    s->stream = (uint8_t)(stream != 0);
    s->v6 = (uint8_t)(v6 != 0);
    s->rcvbuf = stream ? TCP_WND : 212992;
    s->sndbuf = TCP_SND_BUF;
    s->keep_idle = 7200;
    s->keep_intvl = 75;
    s->keep_cnt = 9;
    s->ttl = 64;
    s->mc_ttl = s->mc_loop = s->mc_all6 = 1;
    /* inet6_create() leaves IPv4's off. */
    s->mc_all = (uint8_t)!v6;
    s->checksum = -1;
    table[index] = s;
    return s;
}

struct sock *sock_find(uint64_t handle)
{
    size_t index = handle & (LIMIT - 1);
    if (index >= table_size || table[index] == NULL || table[index]->handle != handle)
        return NULL;
    return table[index];
}

struct sock *sock_each(size_t *cursor)
{
    while (*cursor < table_size) {
        struct sock *s = table[(*cursor)++];
        if (s != NULL)
            return s;
    }
    return NULL;
}

void sock_free(struct sock *s)
{
    size_t index = s->handle & (LIMIT - 1);
    if (s->dirty) {
        struct sock *prev = NULL, *it = dirty_first;
        while (it != s) {
            prev = it;
            it = it->next_dirty;
        }
        if (prev != NULL)
            prev->next_dirty = s->next_dirty;
        else
            dirty_first = s->next_dirty;
        if (dirty_last == s)
            dirty_last = prev;
        dirty_count--;
    }
    if (s->rx_head != NULL)
        pbuf_free(s->rx_head);
    while (s->dg_head != NULL) {
        struct dgram *d = s->dg_head;
        s->dg_head = d->next;
        pbuf_free(d->p);
        free(d);
    }
    table[index] = NULL;
    unused[unused_count++] = (uint32_t)index;
    free(s);
}

void sock_touch(struct sock *s, int edge)
{
    /* Python does not know it before accept(). */
    if (s->listener != NULL)
        return;
    s->edge |= (uint8_t)edge;
    if (s->dirty || (!s->edge && sock_mask(s) == s->reported))
        return;
    s->dirty = 1;
    s->next_dirty = NULL;
    if (dirty_last != NULL)
        dirty_last->next_dirty = s;
    else
        dirty_first = s;
    dirty_last = s;
    dirty_count++;
}

int sock_dirty(void)
{
    return (int)dirty_count;
}

uint32_t sock_mask(const struct sock *s)
{
    return s->stream ? stream_mask(s) : dgram_mask(s);
}

int sock_take_error(struct sock *s)
{
    int error = s->error;
    s->error = 0;
    return error;
}

void sock_abort_all(void)
{
    size_t cursor = 0;
    struct sock *s;
    while ((s = sock_each(&cursor)) != NULL) {
        if (s->listener != NULL)
            continue;
        if (s->stream)
            stream_kill(s, ENETDOWN);
        else
            dgram_kill(s, ENETDOWN);
        sock_touch(s, 1);
    }
}

void sock_touch_datagrams(void)
{
    size_t cursor = 0;
    struct sock *s;
    while ((s = sock_each(&cursor)) != NULL)
        if (!s->stream)
            sock_touch(s, 0);
}

/* What Python is to show next of the sockets that have changed. */
int sock_collect(uint64_t *handles, uint32_t *masks, int max)
{
    int count = 0;
    while (count < max && dirty_first != NULL) {
        struct sock *s = dirty_first;
        uint32_t mask = sock_mask(s);
        dirty_first = s->next_dirty;
        if (dirty_first == NULL)
            dirty_last = NULL;
        dirty_count--;
        s->dirty = 0;
        if (mask == s->reported && !s->edge)
            continue;
        s->edge = 0;
        s->reported = mask;
        handles[count] = s->handle;
        masks[count++] = mask;
    }
    return count;
}

int vp_collect(uint64_t *handles, uint32_t *masks, int max)
{
    int count;
    core_enter();
    count = sock_collect(handles, masks, max);
    core_leave();
    return count;
}
