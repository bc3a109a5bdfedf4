/* The classes of vpoll_asyncio/hot in C: the Python there says what each does.
 *
 * Everything runs under the interpreter's lock, and nothing here gives it up between a
 * look and the change that follows from it, unless Python code is called. */

#ifndef VPOLL_HOT_H
#define VPOLL_HOT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

enum { EVENT_IN = 0x001, EVENT_OUT = 0x004, EVENT_RDNORM = 0x040, EVENT_WRNORM = 0x100 };
enum { KEPT_EVENTS = 0x0fffffff };
/* selectors.EVENT_READ and EVENT_WRITE */
enum { SELECT_READ = 1, SELECT_WRITE = 2 };

typedef struct {
    PyObject_HEAD
    unsigned int mask;
    PyObject *pending;
    /* NULL, the only waiter, or a tuple of several: no tuple itself can be called. */
    PyObject *waiters;
} FileState;

typedef struct {
    FileState file;
    PyObject *apply;
    long bias, direct, ready;
    char waiting;
} DirectState;

typedef struct {
    PyObject_HEAD
    PyObject *file;
} VPollState;

typedef struct {
    PyObject_HEAD
    PyObject **ring;
    Py_ssize_t first, count, capacity;
    PyObject *later;
    char due;
} RelayState;

typedef struct {
    PyObject_HEAD
    PyObject *vpoll;
    PyObject *relay;
    PyObject *context;
    PyObject *callback;
    /* NULL, None or a tuple */
    PyObject *args;
    unsigned int wanted;
    char queued;
} WatchState;

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner;
    unsigned int depth;
} Lock;

typedef struct {
    PyObject_HEAD
    PyObject *chunks;
    PyObject *lock;
    PyObject *peer;
    PyObject *vpoll;
    Py_ssize_t used, sndbuf, rcvbuf, lowat;
    unsigned int mask;
    int error, fin, shut, state, urg;
    char orphan;
} PipeState;

typedef struct {
    PyObject_HEAD
    PyObject *ready, *entries, *epoll, *work, *push;
    double spared_until;
    int fd, spared;
    char asleep, spare;
} SelectorState;

extern PyTypeObject FileState_Type, DirectState_Type, VPollState_Type, RelayState_Type,
    WatchState_Type, Lock_Type, PipeState_Type, ReaderState_Type, SelectorState_Type, StreamIO_Type,
    Trigger_Type, TurnState_Type;

/* Interned names of the methods that are called, and the classes of exceptions. */
#define NAMES(X) \
    X(__init__) X(_call_soon) X(_cancelled) X(_check_closed) X(_debug_turn) \
    X(_drop_cancelled_timers) X(_keys) X(_process_events) X(_remove_reader) X(_remove_writer) \
    X(_run) X(_select_slowly) X(_take_ready) X(_take_timers) X(_when) X(add_waiter) X(append) \
    X(ask) X(call_soon) X(call_soon_threadsafe) X(context) X(create_future) X(data_received) \
    X(end_direct) X(flush_raised) X(flushed) X(get_debug) X(goes_on) X(is_closed) X(is_full) \
    X(join_waiting) X(mend) X(operate) X(peek) X(popleft) X(read_eof) X(read_raised) \
    X(received_raised) X(recv_special) X(refresh) X(remove_waiter) X(report) X(room_made) \
    X(rouse) X(run) X(select) X(send_special) X(show) X(time) X(too_much) X(trigger) \
    X(vpoll_closed) X(vpoll_selector) X(waits) X(write_other) X(write_raised)
#define DECLARE(name) extern PyObject *str_##name;
NAMES(DECLARE)
#undef DECLARE

/* events.bad_mask */
extern PyObject *bad_mask;

static inline int is_set(PyObject *object)
{
    return object && object != Py_None;
}

/* The file of a vpoll whose mask may be read and assigned directly, or NULL. */
static inline FileState *plain_file(PyObject *vpoll)
{
    if (!vpoll || !PyObject_TypeCheck(vpoll, &VPollState_Type))
        return NULL;
    PyObject *file = ((VPollState *)vpoll)->file;
    if (!file || !PyObject_TypeCheck(file, &FileState_Type) || is_set(((FileState *)file)->pending))
        return NULL;
    return (FileState *)file;
}

PyObject *take_exception(void);
int is_exit(void);
int call_waiters(FileState *file, unsigned int mask);
int watch_wake(WatchState *watch, unsigned int mask);
int watch_run(WatchState *watch);
int relay_push(PyObject *relay, PyObject *hop);
int lock_is_free(PyObject *lock);
PyObject *pipe_send(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
/* As pipe_send, without flags: returns 0 where that would have to wait, -1 with an exception. */
Py_ssize_t pipe_offer(PipeState *self, PyObject *data);
PyObject *pipe_recv_some(PyObject *self, PyObject *bufsize);
PyObject *pipe_take(PipeState *self, Py_ssize_t wanted);
int prepare_stream(void);
int prepare_handle(void);
int prepare_selector(void);
int prepare_turn(void);
int prepare_uvloop(void);
PyObject *uvloop_trigger(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

/* Whether a handle runs as asyncio's do: nobody has replaced what is done here instead of its
 * methods.  -1 with an exception. */
int handles_are_asyncios(void);
PyObject *handle_make(PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *loop,
                      PyObject *context);
/* Return whether a handle is cancelled, when a timer is due; -1 with an exception. */
int handle_is_cancelled(PyObject *handle);
double timer_due(PyObject *timer);
/* Returns 0, or -1 with an exception that ends the program. */
int handle_run(PyObject *handle);

int reader_notice(PyObject *reader, unsigned int mask);
PyObject *make_trigger(PyObject *module, PyObject *const *arguments, Py_ssize_t count);
PyObject *run_ready(PyObject *module, PyObject *ready);
int run_callback(PyObject *handle, PyObject *context, PyObject *callback, PyObject *args);
int reader_run(PyObject *reader);
PyObject *stream_read(PyObject *self, PyObject *mask);

/* Calls a method without a result that matters.  Returns 0, or -1 with an exception. */
static inline int notify(PyObject *object, PyObject *name)
{
    PyObject *result = PyObject_CallMethodNoArgs(object, name);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static inline int notify_with(PyObject *object, PyObject *name, PyObject *argument)
{
    PyObject *result = PyObject_CallMethodOneArg(object, name, argument);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

#endif
