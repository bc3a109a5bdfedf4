/* SelectorState: what every turn of a loop with work asks its selector for. */

#include "hot.h"

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>

enum { FEW = 64, SPARED_POLLS = 15 };
static const double SPARED_TIME = 0.001;

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
        PyObject *pair = Py_BuildValue("iI", events[index].data.fd, events[index].events);
        if (pair)
            PyList_SET_ITEM(seen, index, pair);
        else
            Py_CLEAR(seen);
    }
    return seen;
}

/* Without waiting; an empty list after a signal whose handler did not raise. */
static PyObject *poll_now(SelectorState *self)
{
    if (self->fd < 0)
        return PyObject_CallMethod(self->epoll, "poll", "i", 0);
    Py_ssize_t most = is_set(self->entries) ? PyObject_Size(self->entries) + 1 : 1;
    if (most < 1)
        return NULL;
    struct epoll_event few[FEW];
    struct epoll_event *events = few;
    int got = epoll_wait(self->fd, few, most < FEW ? (int)most : FEW, 0);
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
    Py_ssize_t waiting = is_set(self->ready) ? PyObject_Size(self->ready) : 0;
    if (waiting < 0)
        return NULL;
    if (waiting || !is_zero(timeout))
        return PyObject_CallMethodOneArg((PyObject *)self, str__select_slowly, timeout);
    if (self->spare && may_spare(self))
        return PyList_New(0);
    self->spared = 0;
    PyObject *seen = poll_now(self);
    if (!seen || (PyList_CheckExact(seen) && !PyList_GET_SIZE(seen)))
        return seen;
    PyObject *found = PyObject_CallMethodOneArg((PyObject *)self, str__keys, seen);
    Py_DECREF(seen);
    return found;
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
    Py_XSETREF(self->has_work, Py_NewRef(Py_None));
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
    Py_VISIT(self->has_work);
    Py_VISIT(self->push);
    return 0;
}

static int selector_clear(SelectorState *self)
{
    Py_CLEAR(self->ready);
    Py_CLEAR(self->entries);
    Py_CLEAR(self->epoll);
    Py_CLEAR(self->has_work);
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
    {"has_work", T_OBJECT, offsetof(SelectorState, has_work), 0, NULL},
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
