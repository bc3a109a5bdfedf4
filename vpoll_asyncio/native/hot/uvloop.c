/* uvloop_trigger: what has a loop of uvloop call something in a turn to come. */

#include "hot.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *loop, *soon, *elsewhere, *callback, *context;
} UvloopTrigger;

/* asyncio._get_running_loop, and the name of the argument that call_soon() gets. */
static PyObject *running_loop, *named_context;

/* Takes back the RuntimeError of a loop that has been closed.  Returns whether it was that. */
static int is_closed(PyObject *loop)
{
    if (!PyErr_ExceptionMatches(PyExc_RuntimeError))
        return 0;
    PyObject *error = take_exception();
    PyObject *closed = PyObject_CallMethodNoArgs(loop, str_is_closed);
    int is = closed ? PyObject_IsTrue(closed) : -1;
    Py_XDECREF(closed);
    if (!is)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
    return is > 0;
}

static PyObject *pull(PyObject *callable, PyObject *const *arguments, size_t count, PyObject *names)
{
    if (PyVectorcall_NARGS(count) || names) {
        PyErr_SetString(PyExc_TypeError, "a trigger takes no arguments");
        return NULL;
    }
    UvloopTrigger *self = (UvloopTrigger *)callable;
    if (!self->loop) {
        PyErr_SetString(PyExc_RuntimeError, "a trigger was collected as garbage");
        return NULL;
    }
    PyObject *running = PyObject_CallNoArgs(running_loop);
    if (!running)
        return NULL;
    PyObject *loop = Py_NewRef(self->loop);
    PyObject *given[] = {self->callback, self->context};
    PyObject *handle = PyObject_Vectorcall(running == loop ? self->soon : self->elsewhere, given, 1,
                                           named_context);
    int done = handle || is_closed(loop);
    Py_XDECREF(handle);
    Py_DECREF(loop);
    Py_DECREF(running);
    return done ? Py_NewRef(Py_None) : NULL;
}

static int trigger_traverse(UvloopTrigger *self, visitproc visit, void *arg)
{
    Py_VISIT(self->loop);
    Py_VISIT(self->soon);
    Py_VISIT(self->elsewhere);
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    return 0;
}

static int trigger_clear(UvloopTrigger *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->soon);
    Py_CLEAR(self->elsewhere);
    Py_CLEAR(self->callback);
    Py_CLEAR(self->context);
    return 0;
}

static void trigger_dealloc(UvloopTrigger *self)
{
    PyObject_GC_UnTrack(self);
    trigger_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyTypeObject UvloopTrigger_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.relay.UvloopTrigger",
    .tp_basicsize = sizeof(UvloopTrigger),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_vectorcall_offset = offsetof(UvloopTrigger, call),
    .tp_call = PyVectorcall_Call,
    .tp_traverse = (traverseproc)trigger_traverse,
    .tp_clear = (inquiry)trigger_clear,
    .tp_dealloc = (destructor)trigger_dealloc,
};

PyObject *uvloop_trigger(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "uvloop_trigger() takes a loop, a callback and a context");
        return NULL;
    }
    PyObject *soon = PyObject_GetAttr(arguments[0], str_call_soon);
    PyObject *elsewhere = soon ? PyObject_GetAttr(arguments[0], str_call_soon_threadsafe) : NULL;
    UvloopTrigger *self = elsewhere ? PyObject_GC_New(UvloopTrigger, &UvloopTrigger_Type) : NULL;
    if (!self) {
        Py_XDECREF(soon);
        Py_XDECREF(elsewhere);
        return NULL;
    }
    self->call = pull;
    self->loop = Py_NewRef(arguments[0]);
    self->soon = soon;
    self->elsewhere = elsewhere;
    self->callback = Py_NewRef(arguments[1]);
    self->context = Py_NewRef(arguments[2]);
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

int prepare_uvloop(void)
{
    PyObject *module = PyImport_ImportModule("asyncio");
    running_loop = module ? PyObject_GetAttrString(module, "_get_running_loop") : NULL;
    Py_XDECREF(module);
    named_context = running_loop ? PyTuple_Pack(1, str_context) : NULL;
    return named_context && !PyType_Ready(&UvloopTrigger_Type) ? 0 : -1;
}
