/* ReaderState: a reader or writer of a vpoll, a waiter that is itself the loop's handle. */

#include "hot.h"

enum { ALWAYS = 0x008 | 0x010 };

typedef struct {
    PyObject_HEAD
    PyObject *callback;
    /* The only argument, or a tuple of none, several or a tuple. */
    PyObject *args;
    PyObject *context;
    PyObject *host;
    PyObject *selector;
    PyObject *vpoll;
    unsigned int wanted;
    char queued, cancelled;
} ReaderState;

static int reader_wake(ReaderState *self, unsigned int mask)
{
    if (!(mask & self->wanted) || self->queued || !self->selector)
        return 0;
    SelectorState *selector = (SelectorState *)self->selector;
    if (!is_set(selector->push))
        return 0;
    self->queued = 1;
    Py_INCREF(selector);
    PyObject *result = PyObject_CallOneArg(selector->push, (PyObject *)self);
    int failed = result ? 0 : -1;
    Py_XDECREF(result);
    if (!failed) {
        selector->spare = 1;
        failed = selector->asleep && self->host ? notify(self->host, str_rouse) : 0;
    }
    Py_DECREF(selector);
    return failed;
}

int reader_notice(PyObject *reader, unsigned int mask)
{
    return reader_wake((ReaderState *)reader, mask);
}

static int look_again(ReaderState *self)
{
    if (!self->wanted || self->queued || !is_set(self->vpoll))
        return 0;
    FileState *file = plain_file(self->vpoll);
    if (file)
        return reader_wake(self, file->mask);
    PyObject *known = PyObject_CallMethodNoArgs(self->vpoll, str_peek);
    if (!known) {
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    unsigned int mask = (unsigned int)PyLong_AsUnsignedLongMask(known);
    Py_DECREF(known);
    return reader_wake(self, mask);
}

static PyObject *get_args(ReaderState *self, void *Py_UNUSED(closure))
{
    if (!self->args)
        Py_RETURN_NONE;
    return PyTuple_CheckExact(self->args) ? Py_NewRef(self->args) : PyTuple_Pack(1, self->args);
}

static int call_back(ReaderState *self)
{
    PyObject *args = get_args(self, NULL);
    if (!args)
        return -1;
    /* Collecting garbage may have run anything. */
    int failed = 0;
    if (!self->cancelled)
        failed = run_callback((PyObject *)self, self->context, self->callback, args);
    Py_DECREF(args);
    return failed;
}

int reader_run(PyObject *reader)
{
    ReaderState *self = (ReaderState *)reader;
    if (self->cancelled || !is_set(self->vpoll))
        return 0;
    self->queued = 0;
    unsigned int mask;
    FileState *file = plain_file(self->vpoll);
    if (file) {
        mask = file->mask;
    } else {
        PyObject *known = PyObject_CallMethodNoArgs(self->vpoll, str_peek);
        if (!known) {
            if (!PyErr_ExceptionMatches(PyExc_OSError))
                return -1;
            PyErr_Clear();
            return 0;
        }
        mask = (unsigned int)PyLong_AsUnsignedLongMask(known);
        Py_DECREF(known);
    }
    if (!(mask & self->wanted))
        return 0;
    if (!call_back(self))
        return look_again(self);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (look_again(self))
        PyErr_WriteUnraisable((PyObject *)self);
    PyErr_Restore(type, value, traceback);
    return -1;
}

static PyObject *reader_run_method(ReaderState *self, PyObject *Py_UNUSED(ignored))
{
    return reader_run((PyObject *)self) ? NULL : Py_NewRef(Py_None);
}

static PyObject *reader_call(PyObject *self, PyObject *arguments, PyObject *keywords)
{
    PyObject *mask;
    if (!PyArg_UnpackTuple(arguments, "ReaderState", 1, 1, &mask))
        return NULL;
    unsigned long value = PyLong_AsUnsignedLongMask(mask);
    if (value == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    return reader_wake((ReaderState *)self, (unsigned int)value) ? NULL : Py_NewRef(Py_None);
}

static PyObject *reader_cancel(ReaderState *self, PyObject *Py_UNUSED(ignored))
{
    self->wanted = 0;
    self->cancelled = 1;
    if (is_set(self->vpoll) && notify_with(self->vpoll, str_remove_waiter, (PyObject *)self))
        return NULL;
    Py_CLEAR(self->callback);
    Py_CLEAR(self->args);
    Py_RETURN_NONE;
}

static int reader_init(ReaderState *self, PyObject *arguments, PyObject *keywords)
{
    PyObject *host, *vpoll, *callback, *args;
    unsigned int interest;
    if (!PyArg_ParseTuple(arguments, "OOIOO!", &host, &vpoll, &interest, &callback, &PyTuple_Type,
                          &args))
        return -1;
    PyObject *selector = PyObject_GetAttr(host, str_vpoll_selector);
    if (!selector)
        return -1;
    if (!PyObject_TypeCheck(selector, &SelectorState_Type)) {
        PyErr_Format(PyExc_TypeError, "%R is no VPollSelector", selector);
        Py_DECREF(selector);
        return -1;
    }
    Py_XSETREF(self->selector, selector);
    PyObject *context = PyContext_CopyCurrent();
    if (!context)
        return -1;
    Py_XSETREF(self->context, context);
    Py_XSETREF(self->host, Py_NewRef(host));
    Py_XSETREF(self->vpoll, Py_NewRef(vpoll));
    Py_XSETREF(self->callback, Py_NewRef(callback));
    /* A million readers are no rarity, and most have one argument, if any. */
    if (PyTuple_GET_SIZE(args) == 1 && !PyTuple_CheckExact(PyTuple_GET_ITEM(args, 0)))
        args = PyTuple_GET_ITEM(args, 0);
    Py_XSETREF(self->args, Py_NewRef(args));
    self->wanted = interest | ALWAYS;
    if (notify_with(vpoll, str_add_waiter, (PyObject *)self))
        return -1;
    return look_again(self);
}

static PyObject *reader_repr(PyObject *self)
{
    PyObject *module = PyImport_ImportModule("vpoll_asyncio.hot.turn");
    if (!module)
        return NULL;
    PyObject *result = PyObject_CallMethod(module, "describe", "O", self);
    Py_DECREF(module);
    return result;
}

static PyObject *get_none(PyObject *self, void *closure)
{
    Py_RETURN_NONE;
}

static int reader_traverse(ReaderState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->callback);
    Py_VISIT(self->args);
    Py_VISIT(self->context);
    Py_VISIT(self->host);
    Py_VISIT(self->selector);
    Py_VISIT(self->vpoll);
    return 0;
}

static int reader_clear(ReaderState *self)
{
    Py_CLEAR(self->callback);
    Py_CLEAR(self->args);
    Py_CLEAR(self->context);
    Py_CLEAR(self->host);
    Py_CLEAR(self->selector);
    Py_CLEAR(self->vpoll);
    return 0;
}

static void reader_dealloc(ReaderState *self)
{
    PyObject_GC_UnTrack(self);
    reader_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* What asyncio's loop looks at in a handle. */
static PyMemberDef reader_members[] = {
    {"_callback", T_OBJECT, offsetof(ReaderState, callback), READONLY, NULL},
    {"_context", T_OBJECT, offsetof(ReaderState, context), READONLY, NULL},
    {"_loop", T_OBJECT, offsetof(ReaderState, host), READONLY, NULL},
    {"_cancelled", T_BOOL, offsetof(ReaderState, cancelled), READONLY, NULL},
    {NULL},
};

static PyGetSetDef reader_getters[] = {
    {"_args", (getter)get_args, NULL, NULL, NULL},
    {"_source_traceback", get_none, NULL, NULL, NULL},
    {NULL},
};

static PyMethodDef reader_methods[] = {
    {"_run", (PyCFunction)reader_run_method, METH_NOARGS, NULL},
    {"cancel", (PyCFunction)reader_cancel, METH_NOARGS,
     PyDoc_STR("End it: no call comes any more.")},
    {NULL},
};

PyTypeObject ReaderState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.turn.ReaderState",
    .tp_basicsize = sizeof(ReaderState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)reader_init,
    .tp_call = reader_call,
    .tp_repr = reader_repr,
    .tp_traverse = (traverseproc)reader_traverse,
    .tp_clear = (inquiry)reader_clear,
    .tp_dealloc = (destructor)reader_dealloc,
    .tp_members = reader_members,
    .tp_getset = reader_getters,
    .tp_methods = reader_methods,
};

