/* RelayState and WatchState: the queue of hops, and the watches that hop. */

#include "hot.h"

#include <time.h>

enum { HOPS = 64, GLANCE = 8 };
static const long long longest = 1000000; /* nanoseconds */

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* The ring. */

static int append(RelayState *self, PyObject *hop)
{
    if (self->count == self->capacity) {
        Py_ssize_t capacity = self->capacity ? self->capacity * 2 : 16;
        PyObject **ring = PyMem_New(PyObject *, capacity);
        if (!ring) {
            PyErr_NoMemory();
            return -1;
        }
        for (Py_ssize_t index = 0; index < self->count; index++)
            ring[index] = self->ring[(self->first + index) % self->capacity];
        PyMem_Free(self->ring);
        self->ring = ring;
        self->first = 0;
        self->capacity = capacity;
    }
    self->ring[(self->first + self->count++) % self->capacity] = Py_NewRef(hop);
    return 0;
}

static PyObject *pop(RelayState *self)
{
    PyObject *hop = self->ring[self->first];
    self->first = (self->first + 1) % self->capacity;
    self->count--;
    return hop;
}

static int alert(RelayState *self)
{
    self->due = 1;
    return notify((PyObject *)self, str_trigger);
}

int relay_push(PyObject *relay, PyObject *hop)
{
    if (!relay || !PyObject_TypeCheck(relay, &RelayState_Type)) {
        PyErr_SetString(PyExc_TypeError, "a watch needs a relay");
        return -1;
    }
    RelayState *self = (RelayState *)relay;
    if (append(self, hop))
        return -1;
    return self->due ? 0 : alert(self);
}

static PyObject *push(PyObject *self, PyObject *hop)
{
    return relay_push(self, hop) ? NULL : Py_NewRef(Py_None);
}

static PyObject *put_off(RelayState *self, PyObject *hop)
{
    if (self->later && PyList_Append(self->later, hop))
        return NULL;
    Py_RETURN_NONE;
}

static int finish(RelayState *self)
{
    Py_ssize_t count = self->later ? PyList_GET_SIZE(self->later) : 0;
    for (Py_ssize_t index = 0; index < count; index++)
        if (append(self, PyList_GET_ITEM(self->later, index)))
            return -1;
    if (count && PyList_SetSlice(self->later, 0, count, NULL))
        return -1;
    self->due = 0;
    return self->count ? alert(self) : 0;
}

static PyObject *run(RelayState *self, PyObject *Py_UNUSED(ignored))
{
    long long until = 0;
    int failed = 0;
    for (int count = 0; count < HOPS && self->count && !failed; count++) {
        if (count % GLANCE == 0) {
            if (!count)
                until = now() + longest;
            else if (now() >= until)
                break;
        }
        PyObject *hop = pop(self);
        if (Py_TYPE(hop)->tp_call == WatchState_Type.tp_call)
            failed = watch_run((WatchState *)hop);
        else
            failed = notify(hop, str_run);
        Py_DECREF(hop);
    }
    if (!failed)
        return finish(self) ? NULL : Py_NewRef(Py_None);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (finish(self))
        PyErr_WriteUnraisable((PyObject *)self);
    PyErr_Restore(type, value, traceback);
    return NULL;
}

static int relay_clear(RelayState *self)
{
    while (self->count)
        Py_DECREF(pop(self));
    Py_CLEAR(self->later);
    return 0;
}

static PyObject *relay_close(RelayState *self, PyObject *Py_UNUSED(ignored))
{
    self->due = 1;
    while (self->count)
        Py_DECREF(pop(self));
    if (self->later && PyList_SetSlice(self->later, 0, PyList_GET_SIZE(self->later), NULL))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *relay_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    RelayState *self = (RelayState *)type->tp_alloc(type, 0);
    if (self && !(self->later = PyList_New(0)))
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int relay_init(RelayState *self, PyObject *arguments, PyObject *keywords)
{
    return 0;
}

static int relay_traverse(RelayState *self, visitproc visit, void *arg)
{
    for (Py_ssize_t index = 0; index < self->count; index++)
        Py_VISIT(self->ring[(self->first + index) % self->capacity]);
    Py_VISIT(self->later);
    return 0;
}

static void relay_dealloc(RelayState *self)
{
    PyObject_GC_UnTrack(self);
    relay_clear(self);
    PyMem_Free(self->ring);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef relay_members[] = {
    {"due", T_BOOL, offsetof(RelayState, due), 0, NULL},
    {NULL},
};

static PyMethodDef relay_methods[] = {
    {"push", push, METH_O, PyDoc_STR("Run a hop in this turn, or soon.")},
    {"put_off", (PyCFunction)put_off, METH_O, PyDoc_STR("Run a hop in the next turn.")},
    {"run", (PyCFunction)run, METH_NOARGS, PyDoc_STR("Run what is queued, within bounds.")},
    {"close", (PyCFunction)relay_close, METH_NOARGS, PyDoc_STR("Forget what is queued.")},
    {NULL},
};

PyTypeObject RelayState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.relay.RelayState",
    .tp_basicsize = sizeof(RelayState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = relay_new,
    .tp_init = (initproc)relay_init,
    .tp_traverse = (traverseproc)relay_traverse,
    .tp_clear = (inquiry)relay_clear,
    .tp_dealloc = (destructor)relay_dealloc,
    .tp_members = relay_members,
    .tp_methods = relay_methods,
};

/* Watches. */

int watch_wake(WatchState *self, unsigned int mask)
{
    if (!(mask & self->wanted) || self->queued)
        return 0;
    self->queued = 1;
    return relay_push(self->relay, (PyObject *)self);
}

/* Stores the mask of the vpoll.  Returns 1 with it, 0 when the vpoll cannot be asked, -1. */
static int look(PyObject *vpoll, unsigned int *mask)
{
    FileState *file = plain_file(vpoll);
    if (file) {
        *mask = file->mask;
        return 1;
    }
    PyObject *known = PyObject_CallMethodNoArgs(vpoll, str_peek);
    if (known) {
        *mask = (unsigned int)PyLong_AsUnsignedLongMask(known);
        Py_DECREF(known);
        return PyErr_Occurred() ? -1 : 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_OSError))
        return -1;
    PyErr_Clear();
    return 0;
}

static int call_back(WatchState *self, unsigned int seen)
{
    if (!is_set(self->callback) || !is_set(self->context)) {
        PyErr_SetString(PyExc_TypeError, "a watch needs a callback and a context");
        return -1;
    }
    PyObject *args = is_set(self->args) ? Py_NewRef(self->args) : NULL;
    PyObject *boxed = args ? NULL : PyLong_FromUnsignedLong(seen);
    if (!args && !boxed)
        return -1;
    PyObject *callback = Py_NewRef(self->callback);
    PyObject *context = Py_NewRef(self->context);
    PyObject *result = NULL;
    if (PyContext_Enter(context) == 0) {
        if (args)
            result = PyObject_Vectorcall(callback, ((PyTupleObject *)args)->ob_item,
                                         (size_t)PyTuple_GET_SIZE(args), NULL);
        else if (PyCFunction_CheckExact(callback) &&
                 PyCFunction_GET_FUNCTION(callback) == stream_read)
            result = stream_read(PyCFunction_GET_SELF(callback), boxed);
        else
            result = PyObject_CallOneArg(callback, boxed);
        if (PyContext_Exit(context))
            Py_CLEAR(result);
    }
    Py_DECREF(context);
    Py_DECREF(callback);
    Py_XDECREF(args);
    Py_XDECREF(boxed);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Tells the watch what its callback raised, unless it ends the program. */
static int report(WatchState *self)
{
    if (is_exit())
        return -1;
    PyObject *exception = take_exception();
    int failed = notify_with((PyObject *)self, str_report, exception);
    Py_DECREF(exception);
    return failed;
}

int watch_run(WatchState *self)
{
    self->queued = 0;
    if (!self->wanted || !self->vpoll || !self->relay)
        return 0;
    unsigned int mask;
    int known = look(self->vpoll, &mask);
    if (known <= 0)
        return known ? -1 : notify((PyObject *)self, str_vpoll_closed);
    if (!(mask & self->wanted))
        return 0;
    self->queued = 1;
    int failed = call_back(self, mask & self->wanted);
    if (failed)
        failed = report(self);
    self->queued = 0;
    if (!self->wanted || !self->vpoll)
        return failed;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    known = look(self->vpoll, &mask);
    if (!known)
        /* Closed by the callback: its waiter was told while this was queued. */
        known = notify((PyObject *)self, str_vpoll_closed);
    else if (known > 0 && mask & self->wanted && !self->queued &&
        self->relay && PyObject_TypeCheck(self->relay, &RelayState_Type) &&
        ((RelayState *)self->relay)->later) {
        self->queued = 1;
        known = PyList_Append(((RelayState *)self->relay)->later, (PyObject *)self);
    }
    if (known < 0) {
        if (failed)
            PyErr_Clear();
        else
            return -1;
    }
    PyErr_Restore(type, value, traceback);
    return failed;
}

static PyObject *watch_run_method(WatchState *self, PyObject *Py_UNUSED(ignored))
{
    return watch_run(self) ? NULL : Py_NewRef(Py_None);
}

static PyObject *watch_call(PyObject *self, PyObject *arguments, PyObject *keywords)
{
    PyObject *mask;
    if (!PyArg_UnpackTuple(arguments, "WatchState", 1, 1, &mask))
        return NULL;
    unsigned long value = PyLong_AsUnsignedLongMask(mask);
    if (value == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    return watch_wake((WatchState *)self, (unsigned int)value) ? NULL : Py_NewRef(Py_None);
}

static int watch_traverse(WatchState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->vpoll);
    Py_VISIT(self->relay);
    Py_VISIT(self->context);
    Py_VISIT(self->callback);
    Py_VISIT(self->args);
    return 0;
}

static int watch_clear(WatchState *self)
{
    Py_CLEAR(self->vpoll);
    Py_CLEAR(self->relay);
    Py_CLEAR(self->context);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->args);
    return 0;
}

static void watch_dealloc(WatchState *self)
{
    PyObject_GC_UnTrack(self);
    watch_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* The waiter is the watch itself, which call_waiters() knows. */
static PyObject *get_notice(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self);
}

static PyObject *get_args(WatchState *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->args ? self->args : Py_None);
}

static int set_args(WatchState *self, PyObject *args, void *Py_UNUSED(closure))
{
    if (!args || (args != Py_None && !PyTuple_CheckExact(args))) {
        PyErr_SetString(PyExc_TypeError, "the arguments of a watch are a tuple, or None");
        return -1;
    }
    Py_XSETREF(self->args, Py_NewRef(args));
    return 0;
}

static PyGetSetDef watch_getters[] = {
    {"args", (getter)get_args, (setter)set_args, NULL, NULL},
    {"notice", get_notice, NULL, NULL, NULL},
    {NULL},
};

static PyMemberDef watch_members[] = {
    {"vpoll", T_OBJECT_EX, offsetof(WatchState, vpoll), 0, NULL},
    {"relay", T_OBJECT_EX, offsetof(WatchState, relay), 0, NULL},
    {"context", T_OBJECT_EX, offsetof(WatchState, context), 0, NULL},
    {"callback", T_OBJECT_EX, offsetof(WatchState, callback), 0, NULL},
    {"wanted", T_UINT, offsetof(WatchState, wanted), 0, NULL},
    {"queued", T_BOOL, offsetof(WatchState, queued), 0, NULL},
    {NULL},
};

static PyMethodDef watch_methods[] = {
    {"run", (PyCFunction)watch_run_method, METH_NOARGS,
     PyDoc_STR("Call back if there is reason to.")},
    {NULL},
};

PyTypeObject WatchState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.relay.WatchState",
    .tp_basicsize = sizeof(WatchState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_call = watch_call,
    .tp_traverse = (traverseproc)watch_traverse,
    .tp_clear = (inquiry)watch_clear,
    .tp_dealloc = (destructor)watch_dealloc,
    .tp_members = watch_members,
    .tp_getset = watch_getters,
    .tp_methods = watch_methods,
};
