/* StreamIO: bytes that the socket takes, data that it has. */

#include "hot.h"

enum { LARGE = 16 * 1024 };

typedef struct {
    PyObject_HEAD
    PyObject *owner;
    PyObject *send;
    PyObject *receive;
    PyObject *protocol;
    PyObject *limit;
    char direct, reading;
} StreamIO;

/* Whether the cycle collector has taken the object apart, which finalizers may still use. */
static int is_dismantled(StreamIO *self)
{
    if (self->owner && self->send && self->receive && self->limit)
        return 0;
    PyErr_SetString(PyExc_ReferenceError, "the transport is gone");
    return 1;
}

static PyObject *send_bytes(StreamIO *self, PyObject *data)
{
    static PyObject *zero;
    if (!zero && !(zero = PyLong_FromLong(0)))
        return NULL;
    PyObject *send = self->send;
    PyObject *arguments[] = {data, zero, Py_None};
    if (PyCFunction_CheckExact(send) &&
        PyCFunction_GET_FUNCTION(send) == (PyCFunction)(void (*)(void))pipe_send)
        return pipe_send(PyCFunction_GET_SELF(send), arguments, 3);
    return PyObject_Vectorcall(send, arguments, 3, NULL);
}

static PyObject *receive_bytes(StreamIO *self, PyObject *limit)
{
    PyObject *receive = self->receive;
    if (PyCFunction_CheckExact(receive) && PyCFunction_GET_FUNCTION(receive) == pipe_recv_some)
        return pipe_recv_some(PyCFunction_GET_SELF(receive), limit);
    return PyObject_CallOneArg(receive, limit);
}

/* Returns 1, 0 or -1. */
static int more_waits(StreamIO *self)
{
    if (!self->reading)
        return 0;
    PyObject *receive = self->receive;
    if (PyCFunction_CheckExact(receive) && PyCFunction_GET_FUNCTION(receive) == pipe_recv_some)
        return (((PipeState *)PyCFunction_GET_SELF(receive))->mask & EVENT_IN) != 0;
    PyObject *more = PyObject_CallMethodNoArgs(self->owner, str_goes_on);
    int result = more ? PyObject_IsTrue(more) : -1;
    Py_XDECREF(more);
    return result;
}

/* Hands the exception that is set over to a method of the owner, unless it ends the program. */
static int hand_over(StreamIO *self, PyObject *name, PyObject *before, PyObject *after)
{
    if (is_exit())
        return -1;
    PyObject *exception = take_exception();
    PyObject *arguments[4] = {self->owner};
    size_t count = 1;
    if (before)
        arguments[count++] = before;
    arguments[count++] = exception;
    if (after)
        arguments[count++] = after;
    PyObject *result = PyObject_VectorcallMethod(name, arguments, count, NULL);
    Py_DECREF(exception);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static PyObject *stream_write(StreamIO *self, PyObject *data)
{
    if (is_dismantled(self))
        return NULL;
    if (!self->direct || !PyBytes_CheckExact(data) || !PyBytes_GET_SIZE(data))
        return PyObject_CallMethodOneArg(self->owner, str_write_other, data);
    PyObject *sent = send_bytes(self, data);
    if (!sent)
        return hand_over(self, str_write_raised, data, NULL) ? NULL : Py_NewRef(Py_None);
    Py_ssize_t count = PyLong_AsSsize_t(sent);
    PyObject *result = NULL;
    if (count == PyBytes_GET_SIZE(data)) {
        result = Py_NewRef(Py_None);
    } else if (count != -1 || !PyErr_Occurred()) {
        PyObject *arguments[] = {self->owner, data, sent};
        result = PyObject_VectorcallMethod(str_write_rest, arguments, 3, NULL);
    }
    Py_DECREF(sent);
    return result;
}

PyObject *stream_read(PyObject *object, PyObject *mask)
{
    StreamIO *self = (StreamIO *)object;
    if (is_dismantled(self))
        return NULL;
    Py_ssize_t left = PyLong_AsSsize_t(self->limit);
    if (left == -1 && PyErr_Occurred())
        return NULL;
    PyObject *limit = Py_NewRef(self->limit);
    int failed = 0;
    for (;;) {
        PyObject *data = receive_bytes(self, limit);
        Py_CLEAR(limit);
        if (!data) {
            failed = hand_over(self, str_read_raised, NULL, mask);
            break;
        }
        Py_ssize_t size = PyObject_Size(data);
        if (size <= 0) {
            Py_DECREF(data);
            failed = size < 0 ? -1 : notify(self->owner, str_read_eof);
            break;
        }
        PyObject *protocol = Py_NewRef(self->protocol ? self->protocol : Py_None);
        failed = notify_with(protocol, str_data_received, data);
        Py_DECREF(protocol);
        Py_DECREF(data);
        if (failed) {
            failed = hand_over(self, str_received_raised, NULL, NULL);
            break;
        }
        left -= size;
        if (size < LARGE || left < LARGE)
            break;
        int goes_on = more_waits(self);
        if (goes_on <= 0) {
            failed = goes_on;
            break;
        }
        if (!(limit = PyLong_FromSsize_t(left))) {
            failed = -1;
            break;
        }
    }
    return failed ? NULL : Py_NewRef(Py_None);
}

static int stream_init(StreamIO *self, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"owner", "send", "receive", "limit", NULL};
    PyObject *owner, *send, *receive, *limit;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOOO!", names, &owner, &send, &receive,
                                     &PyLong_Type, &limit))
        return -1;
    Py_XSETREF(self->owner, Py_NewRef(owner));
    Py_XSETREF(self->send, Py_NewRef(send));
    Py_XSETREF(self->receive, Py_NewRef(receive));
    Py_XSETREF(self->limit, Py_NewRef(limit));
    self->direct = 0;
    return 0;
}

static int stream_traverse(StreamIO *self, visitproc visit, void *arg)
{
    Py_VISIT(self->owner);
    Py_VISIT(self->send);
    Py_VISIT(self->receive);
    Py_VISIT(self->protocol);
    Py_VISIT(self->limit);
    return 0;
}

static int stream_clear(StreamIO *self)
{
    Py_CLEAR(self->owner);
    Py_CLEAR(self->send);
    Py_CLEAR(self->receive);
    Py_CLEAR(self->protocol);
    return 0;
}

static void stream_dealloc(StreamIO *self)
{
    PyObject_GC_UnTrack(self);
    stream_clear(self);
    Py_CLEAR(self->limit);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef stream_members[] = {
    {"direct", T_BOOL, offsetof(StreamIO, direct), 0, NULL},
    {"reading", T_BOOL, offsetof(StreamIO, reading), 0, NULL},
    {"protocol", T_OBJECT, offsetof(StreamIO, protocol), 0, NULL},
    {NULL},
};

static PyMethodDef stream_methods[] = {
    {"write", (PyCFunction)stream_write, METH_O, PyDoc_STR("Send bytes.")},
    {"read", stream_read, METH_O,
     PyDoc_STR("Receive what waits and give it to the protocol.")},
    {NULL},
};

PyTypeObject StreamIO_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.stream.StreamIO",
    .tp_basicsize = sizeof(StreamIO),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)stream_init,
    .tp_traverse = (traverseproc)stream_traverse,
    .tp_clear = (inquiry)stream_clear,
    .tp_dealloc = (destructor)stream_dealloc,
    .tp_members = stream_members,
    .tp_methods = stream_methods,
};
