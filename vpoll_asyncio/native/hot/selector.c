/* SelectorState: what every turn of a loop with work asks its selector for. */

#include "hot.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <sys/epoll.h>
#include <time.h>

enum { FEW = 64, SPARED_POLLS = 15 };
static const double SPARED_TIME = 0.001;

/* selectors.SelectorKey, a tuple, and where it has its events. */
static PyTypeObject *key_type;
enum { KEY_EVENTS = 2 };

static double monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int may_spare(SelectorState *self)
{
    self->spare = 0;
    double now = monotonic();
    if (!self->spared)
        self->spared_until = now + SPARED_TIME;
    else if (self->spared >= SPARED_POLLS || now >= self->spared_until)
        return 0;
    self->spared++;
    return 1;
}

/* A list of (descriptor, events), or NULL with an exception. */
static PyObject *pairs(const struct epoll_event *events, Py_ssize_t count)
{
    PyObject *seen = PyList_New(count);
    for (Py_ssize_t index = 0; seen && index < count; index++) {
        PyObject *fd = PyLong_FromLong(events[index].data.fd);
        PyObject *mask = PyLong_FromUnsignedLong(events[index].events);
        PyObject *pair = fd && mask ? PyTuple_Pack(2, fd, mask) : NULL;
        Py_XDECREF(fd);
        Py_XDECREF(mask);
        if (pair)
            PyList_SET_ITEM(seen, index, pair);
        else
            Py_CLEAR(seen);
    }
    return seen;
}

static int wait_for(int fd, struct epoll_event *events, int most, int milliseconds)
{
    if (!milliseconds)
        return epoll_wait(fd, events, most, 0);
    int got, error;
    Py_BEGIN_ALLOW_THREADS
    got = epoll_wait(fd, events, most, milliseconds);
    error = errno;
    Py_END_ALLOW_THREADS
    errno = error;
    return got;
}

/* An empty list after a signal whose handler did not raise. */
static PyObject *poll_for(SelectorState *self, int milliseconds)
{
    Py_ssize_t most = is_set(self->entries) ? PyObject_Size(self->entries) + 1 : 1;
    if (most < 1)
        return NULL;
    struct epoll_event few[FEW];
    struct epoll_event *events = few;
    int got = wait_for(self->fd, few, most < FEW ? (int)most : FEW, milliseconds);
    if (got == FEW && most > FEW) {
        /* As many as there are at once is rare: begin with few. */
        most = most < 1 << 20 ? most : 1 << 20;
        if (!(events = PyMem_New(struct epoll_event, most)))
            return PyErr_NoMemory();
        got = epoll_wait(self->fd, events, (int)most, 0);
    }
    PyObject *seen = NULL;
    if (got >= 0)
        seen = pairs(events, got);
    else if (errno != EINTR)
        PyErr_SetFromErrno(PyExc_OSError);
    else
        seen = PyErr_CheckSignals() ? NULL : PyList_New(0);
    if (events != few)
        PyMem_Free(events);
    return seen;
}

/* Adds (key, events) of what epoll has seen of one descriptor.  Returns 0, 1 for a key that
 * _keys() must look at, or -1 with an exception. */
static int add_key(SelectorState *self, PyObject *found, PyObject *pair)
{
    PyObject *key = PyDict_GetItemWithError(self->entries, PyTuple_GET_ITEM(pair, 0));
    if (!key)
        return PyErr_Occurred() ? -1 : 0;
    /* A key by mask has an EventMask. */
    if (Py_TYPE(key) != key_type || !PyLong_CheckExact(PyTuple_GET_ITEM(key, KEY_EVENTS)))
        return 1;
    long wanted = PyLong_AsLong(PyTuple_GET_ITEM(key, KEY_EVENTS));
    long mask = PyLong_AsLong(PyTuple_GET_ITEM(pair, 1));
    if ((wanted == -1 || mask == -1) && PyErr_Occurred())
        return -1;
    long events = (mask & ~EVENT_IN ? SELECT_WRITE : 0) | (mask & ~EVENT_OUT ? SELECT_READ : 0);
    PyObject *number = PyLong_FromLong(events & wanted);
    PyObject *item = number ? PyTuple_Pack(2, key, number) : NULL;
    int failed = item ? PyList_Append(found, item) : -1;
    Py_XDECREF(number);
    Py_XDECREF(item);
    return failed;
}

/* As _keys() does; takes the reference to `seen`, which may be NULL with an exception. */
static PyObject *keys(SelectorState *self, PyObject *seen)
{
    if (!seen || !PyList_CheckExact(seen) || !PyList_GET_SIZE(seen))
        return seen;
    PyObject *found = PyDict_CheckExact(self->entries) ? PyList_New(0) : NULL;
    int other = found ? 0 : PyErr_Occurred() ? -1 : 1;
    for (Py_ssize_t index = 0; !other && index < PyList_GET_SIZE(seen); index++)
        other = add_key(self, found, PyList_GET_ITEM(seen, index));
    if (other)
        Py_CLEAR(found);
    if (other > 0)
        found = PyObject_CallMethodOneArg((PyObject *)self, str__keys, seen);
    Py_DECREF(seen);
    return found;
}

static Py_ssize_t count_ready(SelectorState *self)
{
    return is_set(self->ready) ? PyObject_Size(self->ready) : 0;
}

/* Returns whether the loop has work, or -1 with an exception. */
static int has_work(SelectorState *self)
{
    if (!self->work)
        return 0;
    PyObject *work = Py_NewRef(self->work);
    int has = PyObject_IsTrue(work);
    Py_DECREF(work);
    return has;
}

/* Sleeps once, for `left` seconds or, below 0, for ever; returns what _keys() does. */
static PyObject *sleep_once(SelectorState *self, double left)
{
    double milliseconds = ceil(left * 1e3);
    int wait = left < 0 ? -1 : milliseconds < INT_MAX ? (int)milliseconds : INT_MAX;
    self->asleep = 1;
    /* The second look: whoever came before the announcement did not wake us. */
    Py_ssize_t work = count_ready(self);
    if (!work)
        work = has_work(self);
    PyObject *seen = work < 0 ? NULL : poll_for(self, work ? 0 : wait);
    self->asleep = 0;
    return keys(self, seen);
}

/* The way of _select_slowly() that a loop without work takes. */
static PyObject *wait_until(SelectorState *self, double timeout)
{
    self->spared = 0;
    double left = timeout, deadline = timeout < 0 ? -1 : monotonic() + timeout;
    for (;;) {
        PyObject *found = sleep_once(self, left);
        if (!found)
            return NULL;
        Py_ssize_t waiting = count_ready(self);
        if (waiting < 0 || (waiting && notify_with((PyObject *)self, str__take_ready, found))) {
            Py_DECREF(found);
            return NULL;
        }
        int work = PyObject_Size(found) ? 1 : has_work(self);
        if (!work && timeout >= 0 && (left = deadline - monotonic()) <= 0)
            work = 1;
        if (work > 0)
            return found;
        Py_DECREF(found);
        if (work < 0 || self->fd < 0)
            return work < 0 ? NULL : PyObject_CallMethod(self->epoll, "poll", "i", 0);
    }
}

static int is_zero(PyObject *timeout)
{
    if (PyLong_CheckExact(timeout)) {
        int overflow;
        return !PyLong_AsLongAndOverflow(timeout, &overflow) && !overflow;
    }
    return PyFloat_CheckExact(timeout) && PyFloat_AS_DOUBLE(timeout) == 0.0;
}

static PyObject *selector_select(SelectorState *self, PyObject *const *arguments, Py_ssize_t count,
                                 PyObject *names)
{
    Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    if (count + named > 1 ||
        (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "timeout"))) {
        PyErr_SetString(PyExc_TypeError, "select() takes a timeout and nothing else");
        return NULL;
    }
    PyObject *timeout = count + named ? arguments[0] : Py_None;
    Py_ssize_t waiting = count_ready(self);
    if (waiting < 0)
        return NULL;
    if (!waiting && self->fd >= 0 && !is_zero(timeout)) {
        double seconds = timeout == Py_None ? -1 : PyFloat_AsDouble(timeout);
        if (PyErr_Occurred())
            return NULL;
        if (timeout == Py_None || seconds > 0)
            return wait_until(self, seconds);
    }
    if (waiting || self->fd < 0 || !is_zero(timeout))
        return PyObject_CallMethodOneArg((PyObject *)self, str__select_slowly, timeout);
    if (self->spare && may_spare(self))
        return PyList_New(0);
    self->spared = 0;
    return keys(self, poll_for(self, 0));
}

static PyObject *selector_may_spare(SelectorState *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(may_spare(self));
}

static PyObject *selector_poll_next(SelectorState *self, PyObject *Py_UNUSED(ignored))
{
    self->spared = SPARED_POLLS;
    self->spared_until = 0.0;
    Py_RETURN_NONE;
}

static PyObject *selector_close_epoll(SelectorState *self, PyObject *Py_UNUSED(ignored))
{
    /* Its number may soon be somebody else's. */
    self->fd = -1;
    if (!is_set(self->epoll))
        Py_RETURN_NONE;
    return PyObject_CallMethod(self->epoll, "close", NULL);
}

static int selector_init(SelectorState *self, PyObject *arguments, PyObject *keywords)
{
    PyObject *epoll;
    if (!PyArg_ParseTuple(arguments, "O", &epoll))
        return -1;
    int fd = PyObject_AsFileDescriptor(epoll);
    if (fd < 0)
        return -1;
    PyObject *collections = PyImport_ImportModule("collections");
    if (!collections)
        return -1;
    PyObject *ready = PyObject_CallMethod(collections, "deque", NULL);
    Py_DECREF(collections);
    if (!ready)
        return -1;
    Py_XSETREF(self->ready, ready);
    PyObject *entries = PyDict_New();
    if (!entries)
        return -1;
    Py_XSETREF(self->entries, entries);
    Py_XSETREF(self->epoll, Py_NewRef(epoll));
    Py_XSETREF(self->work, Py_NewRef(Py_None));
    Py_XSETREF(self->push, Py_NewRef(Py_None));
    self->fd = fd;
    self->asleep = self->spare = 0;
    self->spared = 0;
    self->spared_until = 0.0;
    return 0;
}

static PyObject *selector_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    SelectorState *self = (SelectorState *)type->tp_alloc(type, 0);
    if (self)
        self->fd = -1;
    return (PyObject *)self;
}

static int selector_traverse(SelectorState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->ready);
    Py_VISIT(self->entries);
    Py_VISIT(self->epoll);
    Py_VISIT(self->work);
    Py_VISIT(self->push);
    return 0;
}

static int selector_clear(SelectorState *self)
{
    Py_CLEAR(self->ready);
    Py_CLEAR(self->entries);
    Py_CLEAR(self->epoll);
    Py_CLEAR(self->work);
    Py_CLEAR(self->push);
    self->fd = -1;
    return 0;
}

static void selector_dealloc(SelectorState *self)
{
    PyObject_GC_UnTrack(self);
    selector_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef selector_members[] = {
    {"ready", T_OBJECT, offsetof(SelectorState, ready), 0, NULL},
    {"entries", T_OBJECT, offsetof(SelectorState, entries), 0, NULL},
    {"epoll", T_OBJECT, offsetof(SelectorState, epoll), READONLY, NULL},
    {"work", T_OBJECT, offsetof(SelectorState, work), 0, NULL},
    {"push", T_OBJECT, offsetof(SelectorState, push), 0, NULL},
    {"asleep", T_BOOL, offsetof(SelectorState, asleep), 0, NULL},
    {"spare", T_BOOL, offsetof(SelectorState, spare), 0, NULL},
    {"spared", T_INT, offsetof(SelectorState, spared), 0, NULL},
    {NULL},
};

static PyMethodDef selector_methods[] = {
    {"select", (PyCFunction)(void (*)(void))selector_select, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Wait until something registered is ready; return its (key, events).")},
    {"may_spare", (PyCFunction)selector_may_spare, METH_NOARGS,
     PyDoc_STR("Count one more poll as spared, unless the bounds forbid it; return whether.")},
    {"poll_next", (PyCFunction)selector_poll_next, METH_NOARGS,
     PyDoc_STR("Make the next select() poll the kernel, whatever a loop has queued.")},
    {"close_epoll", (PyCFunction)selector_close_epoll, METH_NOARGS,
     PyDoc_STR("Give back the epoll's descriptor.  Closing twice is allowed.")},
    {NULL},
};

PyTypeObject SelectorState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.selector.SelectorState",
    .tp_basicsize = sizeof(SelectorState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = selector_new,
    .tp_init = (initproc)selector_init,
    .tp_traverse = (traverseproc)selector_traverse,
    .tp_clear = (inquiry)selector_clear,
    .tp_dealloc = (destructor)selector_dealloc,
    .tp_members = selector_members,
    .tp_methods = selector_methods,
};

int prepare_selector(void)
{
    PyObject *module = PyImport_ImportModule("selectors");
    key_type = module ? (PyTypeObject *)PyObject_GetAttrString(module, "SelectorKey") : NULL;
    Py_XDECREF(module);
    return key_type ? 0 : -1;
}
