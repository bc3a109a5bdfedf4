/* What every message goes through, without a step in Python: the module _vpoll_lwip_calls,
 * which is in the same library as cffi's.
 *
 * Reader is called when the link is readable, Stream receives and sends. */

#include "calls.h"

#define DEFINE(name) PyObject *str_##name;
NAMES(DEFINE)
#undef DEFINE

/* The calls of one socket, or of one loop's reader of a link. */
typedef struct {
    PyObject_HEAD
    Masks *masks;
    PyObject *settle;           /* Core.settle */
    PyObject *owner;            /* the socket; the loop's relay */
    PyObject *vpoll;            /* the socket's */
    uint64_t handle;            /* the socket's; the index of the link's interface */
} Calls;

static int settle(Calls *self)
{
    PyObject *result;
    if (!status.attention && !self->masks->busy)
        return 0;
    result = PyObject_CallNoArgs(self->settle);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* The same after a call that has perhaps failed; returns whether it has. */
static int settle_after(Calls *self, int failed)
{
    PyObject *type, *value, *traceback;
    if (!failed || (!status.attention && !self->masks->busy))
        return failed || settle(self);
    PyErr_Fetch(&type, &value, &traceback);
    if (settle(self)) {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
    } else {
        PyErr_Restore(type, value, traceback);
    }
    return 1;
}

static PyObject *receive_otherwise(Calls *self, PyObject *size)
{
    static PyObject *zero;
    PyObject *arguments[3] = {self->owner, size};
    if (zero == NULL && (zero = PyLong_FromLong(0)) == NULL)
        return NULL;
    arguments[2] = zero;
    return PyObject_VectorcallMethod(str_do_recv, arguments, 3, NULL);
}

/* What is left of the mask, which no waiter has to hear of: events only end by it. */
static int lose_events(Calls *self, uint32_t left)
{
    PyObject *file = plain_file(self->vpoll), *mask = NULL;
    int failed = -1;
    if (file == Py_None) {
        masks_tell(self->handle);
        failed = 0;
    } else if (file != NULL && (mask = PyLong_FromUnsignedLong(left)) != NULL) {
        failed = PyObject_SetAttr(file, str_mask, mask);
    }
    Py_XDECREF(mask);
    Py_XDECREF(file);
    return failed;
}

static PyObject *receive(Calls *self, Py_ssize_t size)
{
    Masks *masks = self->masks;
    PyObject *data = NULL;
    int64_t answer;
    size_t most = size < SCRATCH ? (size_t)size : (size_t)SCRATCH;
    struct vp_addr from;
    Py_BEGIN_ALLOW_THREADS
    answer = vp_recv_some(self->handle, masks->scratch, most);
    if (answer == 0)
        answer = vp_recv(self->handle, masks->scratch, most, 0, &from);
    Py_END_ALLOW_THREADS
    if (answer < 0) {
        errno = (int)-answer;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (!(answer >> 32) || !lose_events(self, (uint32_t)(answer >> 32) & ~(uint32_t)VP_LOST))
        data = PyBytes_FromStringAndSize(masks->scratch, (Py_ssize_t)(answer & 0xffffffff));
    if (data == NULL)
        masks_tell(self->handle);
    return data;
}

/* Data of a stream.  Inside a waiter there is nothing to keep the masks right with: the
 * socket's do_recv() leaves them to the call that was interrupted. */
static PyObject *receive_some(Calls *self, PyObject *size)
{
    PyObject *data;
    Py_ssize_t wanted = PyLong_AsSsize_t(size);
    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    if (wanted <= 0 || !masks_enter(self->masks))
        return receive_otherwise(self, size);
    data = receive(self, wanted);
    masks_leave(self->masks);
    if (settle_after(self, data == NULL)) {
        Py_XDECREF(data);
        return NULL;
    }
    return data;
}

/* do_send() of a stream. */
static PyObject *send_bytes(Calls *self, PyObject *const *arguments, Py_ssize_t count)
{
    int64_t sent;
    if (!takes(count, 3))
        return NULL;
    if (!PyBytes_CheckExact(arguments[0]) || arguments[2] != Py_None
        || !PyLong_CheckExact(arguments[1]) || PyObject_IsTrue(arguments[1])) {
        PyObject *others[] = {self->owner, arguments[0], arguments[1], arguments[2]};
        return PyObject_VectorcallMethod(str_do_send, others, 4, NULL);
    }
    Py_BEGIN_ALLOW_THREADS
    sent = vp_send(self->handle, PyBytes_AS_STRING(arguments[0]),
                   (size_t)PyBytes_GET_SIZE(arguments[0]), NULL);
    Py_END_ALLOW_THREADS
    if (settle(self))
        return NULL;
    if (sent >= 0)
        return PyLong_FromLongLong(sent);
    errno = (int)-sent;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static int turn_and_settle(Calls *self)
{
    return masks_turn(self->masks, (int)self->handle) || (status.attention && settle(self)) ? -1 : 0;
}

/* Takes what the link of interface `handle` has brought; what that sets in motion runs at once, as nobody needs to
 * have the loop run the relay, which would take another turn. */
static PyObject *reader_read(Calls *self, PyObject *unused)
{
    PyObject *relay = self->owner, *due = PyObject_GetAttr(relay, str_due), *result;
    PyObject *type, *value, *traceback;
    int already, failed;
    (void)unused;
    if (due == NULL)
        return NULL;
    already = PyObject_IsTrue(due);
    Py_DECREF(due);
    if (already < 0 || (!already && PyObject_SetAttr(relay, str_due, Py_True)))
        return NULL;
    failed = turn_and_settle(self);
    if (already)
        return failed ? NULL : Py_NewRef(Py_None);
    PyErr_Fetch(&type, &value, &traceback);
    result = PyObject_CallMethodNoArgs(relay, str_run);
    if (result != NULL && !failed)
        return result;
    if (result == NULL) {
        /* As of a `finally`: the later exception is the one that counts. */
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return NULL;
    }
    Py_DECREF(result);
    PyErr_Restore(type, value, traceback);
    return NULL;
}

static PyObject *calls_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    PyObject *masks, *settle_by, *owner, *vpoll = Py_None;
    unsigned long long handle = 0;
    Calls *self;
    (void)keywords;
    if (!PyArg_ParseTuple(arguments, "O!OO|OK:calls", &Masks_Type, &masks, &settle_by, &owner,
                          &vpoll, &handle)
        || (self = (Calls *)type->tp_alloc(type, 0)) == NULL)
        return NULL;
    self->masks = (Masks *)Py_NewRef(masks);
    self->settle = Py_NewRef(settle_by);
    self->owner = Py_NewRef(owner);
    self->vpoll = Py_NewRef(vpoll);
    self->handle = handle;
    return (PyObject *)self;
}

static int calls_traverse(Calls *self, visitproc visit, void *arg)
{
    Py_VISIT(self->masks);
    Py_VISIT(self->settle);
    Py_VISIT(self->owner);
    Py_VISIT(self->vpoll);
    return 0;
}

static void calls_dealloc(Calls *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->masks);
    Py_XDECREF(self->settle);
    Py_XDECREF(self->owner);
    Py_XDECREF(self->vpoll);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef stream_methods[] = {
    {"receive", (PyCFunction)receive_some, METH_O, NULL},
    {"send", FAST(send_bytes), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef reader_methods[] = {
    {"read", (PyCFunction)reader_read, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* Neither is part of a cycle that another object in it could not break. */
#define CALLS_TYPE(name, methods)                                \
    {                                                            \
        PyVarObject_HEAD_INIT(NULL, 0)                           \
        .tp_name = "_vpoll_lwip_calls." name,                    \
        .tp_basicsize = sizeof(Calls),                           \
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,     \
        .tp_new = calls_new,                                     \
        .tp_traverse = (traverseproc)calls_traverse,             \
        .tp_dealloc = (destructor)calls_dealloc,                 \
        .tp_methods = methods,                                   \
    }

static PyTypeObject Stream_Type = CALLS_TYPE("Stream", stream_methods);
static PyTypeObject Reader_Type = CALLS_TYPE("Reader", reader_methods);

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_vpoll_lwip_calls",
                                    .m_size = -1};

PyMODINIT_FUNC PyInit__vpoll_lwip_calls(void)
{
    PyObject *self;
#define INTERN(name)                                                    \
    if ((str_##name = PyUnicode_InternFromString(#name)) == NULL)       \
        return NULL;
    NAMES(INTERN)
#undef INTERN
    if ((self = PyModule_Create(&module)) == NULL)
        return NULL;
    if (PyModule_AddType(self, &Masks_Type) || PyModule_AddType(self, &Stream_Type)
        || PyModule_AddType(self, &Reader_Type)) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}
