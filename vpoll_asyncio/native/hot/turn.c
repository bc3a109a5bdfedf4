/* run_ready, poll_now and ReaderState: what a turn of the asyncio loop does for each event. */

#include "hot.h"

#include <errno.h>
#include <sys/epoll.h>

enum { ALWAYS = 0x008 | 0x010, MOST = 64 };

typedef struct {
    PyObject_HEAD
    PyObject *callback;
    PyObject *args;
    PyObject *context;
    PyObject *host;
    PyObject *push;
    PyObject *vpoll;
    unsigned int wanted;
    char queued, cancelled;
} ReaderState;

PyTypeObject ReaderState_Type;

/* asyncio.Handle, and where its slots are. */
static PyTypeObject *handle_type;
static Py_ssize_t handle_callback, handle_args, handle_context, handle_cancelled;

static PyObject *report_exception;

static PyObject *slot(PyObject *object, Py_ssize_t offset)
{
    return *(PyObject **)((char *)object + offset);
}

/* Returns 0, or -1 with an exception that ends the program. */
static int run_callback(PyObject *handle, PyObject *context, PyObject *callback, PyObject *args)
{
    if (!context || !callback || !args || !PyTuple_CheckExact(args)) {
        PyErr_SetString(PyExc_RuntimeError, "a handle lost its callback");
        return -1;
    }
    PyObject *result = NULL;
    Py_INCREF(context);
    Py_INCREF(callback);
    Py_INCREF(args);
    if (PyContext_Enter(context) == 0) {
        result = PyObject_Vectorcall(callback, ((PyTupleObject *)args)->ob_item,
                                     (size_t)PyTuple_GET_SIZE(args), NULL);
        if (PyContext_Exit(context))
            Py_CLEAR(result);
    }
    Py_DECREF(args);
    Py_DECREF(callback);
    Py_DECREF(context);
    if (result) {
        Py_DECREF(result);
        return 0;
    }
    if (is_exit())
        return -1;
    PyObject *exception = take_exception();
    PyObject *arguments[] = {handle, exception};
    result = PyObject_Vectorcall(report_exception, arguments, 2, NULL);
    Py_DECREF(exception);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int run_plain(PyObject *handle)
{
    PyObject *cancelled = slot(handle, handle_cancelled);
    if (cancelled && cancelled != Py_False)
        return 0;
    return run_callback(handle, slot(handle, handle_context), slot(handle, handle_callback),
                        slot(handle, handle_args));
}

static int run_other(PyObject *handle)
{
    static PyObject *name;
    if (!name && !(name = PyUnicode_InternFromString("_cancelled")))
        return -1;
    PyObject *cancelled = PyObject_GetAttr(handle, name);
    int is_cancelled = cancelled ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    if (is_cancelled)
        return is_cancelled < 0 ? -1 : 0;
    return notify(handle, str__run);
}

static int reader_run(ReaderState *self);

PyObject *run_ready(PyObject *module, PyObject *ready)
{
    Py_ssize_t count = PyObject_Size(ready);
    if (count < 0)
        return NULL;
    for (; count; count--) {
        PyObject *handle = PyObject_CallMethodNoArgs(ready, str_popleft);
        if (!handle)
            return NULL;
        int failed;
        if (Py_TYPE(handle) == handle_type)
            failed = run_plain(handle);
        else if (Py_TYPE(handle) == &ReaderState_Type)
            failed = reader_run((ReaderState *)handle);
        else
            failed = run_other(handle);
        Py_DECREF(handle);
        if (failed)
            return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *poll_now(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "poll_now() takes an epoll and a count");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(arguments[0]);
    if (fd < 0)
        return NULL;
    Py_ssize_t most = PyLong_AsSsize_t(arguments[1]);
    if (most == -1 && PyErr_Occurred())
        return NULL;
    struct epoll_event few[MOST];
    struct epoll_event *events = few;
    if (most > MOST) {
        /* As many as there are at once is rare: begin with few. */
        int got = epoll_wait(fd, few, MOST, 0);
        if (got == MOST) {
            if (!(events = PyMem_New(struct epoll_event, most)))
                return PyErr_NoMemory();
            got = epoll_wait(fd, events, (int)(most < 1 << 20 ? most : 1 << 20), 0);
        }
        most = got;
    } else {
        most = epoll_wait(fd, few, (int)(most > 0 ? most : 1), 0);
    }
    PyObject *found = NULL;
    if (most < 0 && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (most < 0) {
        found = PyErr_CheckSignals() ? NULL : PyList_New(0);
    } else if ((found = PyList_New(most))) {
        for (Py_ssize_t index = 0; index < most; index++) {
            PyObject *pair = Py_BuildValue("iI", events[index].data.fd, events[index].events);
            if (!pair) {
                Py_CLEAR(found);
                break;
            }
            PyList_SET_ITEM(found, index, pair);
        }
    }
    if (events != few)
        PyMem_Free(events);
    return found;
}

/* Readers and writers of vpolls. */

static int reader_wake(ReaderState *self, unsigned int mask)
{
    if (!(mask & self->wanted) || self->queued || !self->push || !self->host)
        return 0;
    self->queued = 1;
    PyObject *result = PyObject_CallOneArg(self->push, (PyObject *)self);
    if (!result)
        return -1;
    Py_DECREF(result);
    PyObject *selector = PyObject_GetAttr(self->host, str_vpoll_selector);
    if (!selector)
        return -1;
    int failed = PyObject_SetAttr(selector, str_spare, Py_True);
    if (!failed) {
        PyObject *asleep = PyObject_GetAttr(selector, str_asleep);
        int sleeps = asleep ? PyObject_IsTrue(asleep) : -1;
        Py_XDECREF(asleep);
        failed = sleeps > 0 ? notify(self->host, str_rouse) : sleeps;
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

static int reader_run(ReaderState *self)
{
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
    if (!run_callback((PyObject *)self, self->context, self->callback, self->args))
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
    return reader_run(self) ? NULL : Py_NewRef(Py_None);
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
    PyObject *push = PyObject_GetAttr(host, str_push);
    if (!push)
        return -1;
    Py_XSETREF(self->push, push);
    PyObject *context = PyContext_CopyCurrent();
    if (!context)
        return -1;
    Py_XSETREF(self->context, context);
    Py_XSETREF(self->host, Py_NewRef(host));
    Py_XSETREF(self->vpoll, Py_NewRef(vpoll));
    Py_XSETREF(self->callback, Py_NewRef(callback));
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
    Py_VISIT(self->push);
    Py_VISIT(self->vpoll);
    return 0;
}

static int reader_clear(ReaderState *self)
{
    Py_CLEAR(self->callback);
    Py_CLEAR(self->args);
    Py_CLEAR(self->context);
    Py_CLEAR(self->host);
    Py_CLEAR(self->push);
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
    {"_args", T_OBJECT, offsetof(ReaderState, args), READONLY, NULL},
    {"_context", T_OBJECT, offsetof(ReaderState, context), READONLY, NULL},
    {"_loop", T_OBJECT, offsetof(ReaderState, host), READONLY, NULL},
    {"_cancelled", T_BOOL, offsetof(ReaderState, cancelled), READONLY, NULL},
    {NULL},
};

static PyGetSetDef reader_getters[] = {
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

static Py_ssize_t offset_of(PyObject *type, const char *name)
{
    PyObject *descriptor = PyObject_GetAttrString(type, name);
    if (!descriptor)
        return -1;
    Py_ssize_t offset = -1;
    if (Py_TYPE(descriptor) == &PyMemberDescr_Type)
        offset = ((PyMemberDescrObject *)descriptor)->d_member->offset;
    else
        PyErr_Format(PyExc_ImportError, "asyncio.Handle.%s is no slot", name);
    Py_DECREF(descriptor);
    return offset;
}

int prepare_turn(void)
{
    PyObject *module = PyImport_ImportModule("asyncio.events");
    if (!module)
        return -1;
    PyObject *type = PyObject_GetAttrString(module, "Handle");
    Py_DECREF(module);
    if (!type)
        return -1;
    handle_type = (PyTypeObject *)type;
    if ((handle_callback = offset_of(type, "_callback")) < 0 ||
        (handle_args = offset_of(type, "_args")) < 0 ||
        (handle_context = offset_of(type, "_context")) < 0 ||
        (handle_cancelled = offset_of(type, "_cancelled")) < 0)
        return -1;
    if (!(module = PyImport_ImportModule("vpoll_asyncio._asyncio")))
        return -1;
    report_exception = PyObject_GetAttrString(module, "report_exception");
    Py_DECREF(module);
    return report_exception ? 0 : -1;
}
