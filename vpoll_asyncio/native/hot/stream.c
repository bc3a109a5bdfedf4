/* StreamIO: bytes that the socket takes, data that it has. */

#include "hot.h"

enum { LARGE = 16 * 1024, SENDS = 16 };

typedef struct {
    PyObject_HEAD
    PyObject *owner;
    PyObject *send;
    PyObject *receive;
    PyObject *protocol;
    PyObject *buffer;
    Py_ssize_t size, high;
    int limit;
    char direct, full, open, reading;
} StreamIO;

/* collections.deque */
static PyObject *deque;

int prepare_stream(void)
{
    PyObject *collections = PyImport_ImportModule("collections");
    if (!collections)
        return -1;
    deque = PyObject_GetAttrString(collections, "deque");
    Py_DECREF(collections);
    return deque ? 0 : -1;
}

/* Whether the cycle collector has taken the object apart, which finalizers may still use. */
static int is_dismantled(StreamIO *self)
{
    if (self->owner && self->send && self->receive)
        return 0;
    PyErr_SetString(PyExc_ReferenceError, "the transport is gone");
    return 1;
}

/* The endpoint in memory that the bytes go to or come from, or NULL. */
static PipeState *pipe_behind(PyObject *call, PyCFunction function)
{
    if (PyCFunction_CheckExact(call) && PyCFunction_GET_FUNCTION(call) == function)
        return (PipeState *)PyCFunction_GET_SELF(call);
    return NULL;
}

static PipeState *sending_pipe(StreamIO *self)
{
    return pipe_behind(self->send, (PyCFunction)(void (*)(void))pipe_send);
}

static PipeState *receiving_pipe(StreamIO *self)
{
    return pipe_behind(self->receive, pipe_recv_some);
}

/* Returns how many bytes of `data` the socket took, or -1 with an exception.  What would have
 * to wait is 0, or else an exception. */
static Py_ssize_t offer(StreamIO *self, PyObject *data)
{
    static PyObject *zero;
    PipeState *pipe = sending_pipe(self);
    if (pipe)
        return pipe_offer(pipe, data);
    if (!zero && !(zero = PyLong_FromLong(0)))
        return -1;
    PyObject *arguments[] = {data, zero, Py_None};
    PyObject *sent = PyObject_Vectorcall(self->send, arguments, 3, NULL);
    if (!sent)
        return -1;
    Py_ssize_t count = PyLong_AsSsize_t(sent);
    Py_DECREF(sent);
    if (count < 0 && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "sent %zd bytes: expected 0 or more, or an exception",
                     count);
    return count;
}

static PyObject *receive_bytes(StreamIO *self, Py_ssize_t limit)
{
    PipeState *pipe = receiving_pipe(self);
    if (pipe)
        return pipe_take(pipe, limit);
    PyObject *boxed = PyLong_FromSsize_t(limit);
    PyObject *data = boxed ? PyObject_CallOneArg(self->receive, boxed) : NULL;
    Py_XDECREF(boxed);
    return data;
}

/* Returns what a method of the owner says: 1, 0 or -1. */
static int ask(StreamIO *self, PyObject *name)
{
    PyObject *answer = PyObject_CallMethodNoArgs(self->owner, name);
    int result = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return result;
}

static int more_waits(StreamIO *self)
{
    if (!self->reading)
        return 0;
    PipeState *pipe = receiving_pipe(self);
    /* A socket that was closed meanwhile has no vpoll any more. */
    return pipe ? is_set(pipe->vpoll) && pipe->mask & EVENT_IN : ask(self, str_goes_on);
}

static int is_full(StreamIO *self)
{
    PipeState *pipe = sending_pipe(self);
    return pipe ? !(pipe->mask & EVENT_OUT) : ask(self, str_is_full);
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

/* The number of pieces that wait. */
static Py_ssize_t waiting(StreamIO *self)
{
    return is_set(self->buffer) ? PyObject_Size(self->buffer) : 0;
}

static int keep(StreamIO *self, PyObject *data)
{
    Py_ssize_t size = PyObject_Size(data);
    if (size < 0)
        return -1;
    if (!is_set(self->buffer)) {
        PyObject *made = PyObject_CallNoArgs(deque);
        if (!made)
            return -1;
        Py_XSETREF(self->buffer, made);
    }
    Py_ssize_t before = waiting(self);
    if (before < 0 || notify_with(self->buffer, str_append, data))
        return -1;
    self->size += size;
    if (!before) {
        self->direct = 0;
        if (notify(self->owner, str_waits))
            return -1;
    }
    return self->size > self->high ? notify(self->owner, str_too_much) : 0;
}

/* Returns a view of what follows the first `count` bytes. */
static PyObject *rest_of(PyObject *data, Py_ssize_t count)
{
    PyObject *view = PyMemoryView_FromObject(data);
    PyObject *rest = view ? PySequence_GetSlice(view, count, PY_SSIZE_T_MAX) : NULL;
    Py_XDECREF(view);
    return rest;
}

static int send_now(StreamIO *self, PyObject *data)
{
    Py_ssize_t sent = offer(self, data);
    if (sent < 0)
        return hand_over(self, str_write_raised, data, NULL);
    if (sent == PyBytes_GET_SIZE(data))
        return 0;
    if (!sent)
        return keep(self, data);
    PyObject *rest = rest_of(data, sent);
    int failed = rest ? keep(self, rest) : -1;
    Py_XDECREF(rest);
    return failed;
}

static PyObject *stream_write(StreamIO *self, PyObject *data)
{
    if (is_dismantled(self))
        return NULL;
    if (!PyBytes_CheckExact(data) || !PyBytes_GET_SIZE(data) || !self->open)
        return PyObject_CallMethodOneArg(self->owner, str_write_other, data);
    if (self->direct ? send_now(self, data) : keep(self, data))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *stream_keep(StreamIO *self, PyObject *data)
{
    return is_dismantled(self) || keep(self, data) ? NULL : Py_NewRef(Py_None);
}

/* Sends the piece at the head of the buffer.  Returns its length without what the socket did
 * not take, or -1. */
static Py_ssize_t send_head(StreamIO *self, PyObject *buffer)
{
    Py_ssize_t count = PyObject_Size(buffer);
    PyObject *piece = count < 0 ? NULL : PySequence_GetItem(buffer, 0);
    Py_ssize_t size = piece ? PyObject_Size(piece) : -1;
    if (size >= 0 && size < LARGE && count > 1) {
        Py_SETREF(piece, PyObject_CallMethodNoArgs(self->owner, str_join_waiting));
        size = piece ? PyObject_Size(piece) : -1;
    }
    Py_ssize_t sent = size < 0 ? -1 : offer(self, piece);
    if (sent > 0) {
        self->size -= sent;
        PyObject *rest = NULL;
        if (sent == size)
            rest = PyObject_CallMethodNoArgs(buffer, str_popleft);
        else if ((rest = rest_of(piece, sent)) && PySequence_SetItem(buffer, 0, rest))
            Py_CLEAR(rest);
        if (!rest)
            sent = -1;
        Py_XDECREF(rest);
    }
    Py_XDECREF(piece);
    return sent;
}

static PyObject *stream_flush(StreamIO *self, PyObject *mask)
{
    if (is_dismantled(self))
        return NULL;
    PyObject *buffer = Py_NewRef(is_set(self->buffer) ? self->buffer : Py_None);
    int failed = 0;
    for (int count = 0; count < SENDS && !failed; count++) {
        Py_ssize_t sent = send_head(self, buffer);
        int full = sent <= 0 ? (int)sent : is_full(self);
        Py_ssize_t left = full < 0 ? -1 : PyObject_Size(buffer);
        failed = left < 0;
        if (!failed)
            self->full = !sent || full;
        if (!left || self->full)
            break;
    }
    Py_DECREF(buffer);
    if (failed ? hand_over(self, str_flush_raised, NULL, mask) : notify(self->owner, str_flushed))
        return NULL;
    Py_RETURN_NONE;
}

PyObject *stream_read(PyObject *object, PyObject *mask)
{
    StreamIO *self = (StreamIO *)object;
    if (is_dismantled(self))
        return NULL;
    Py_ssize_t left = self->limit;
    int failed = 0;
    for (;;) {
        PyObject *data = receive_bytes(self, left);
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
    }
    return failed ? NULL : Py_NewRef(Py_None);
}

static int stream_init(StreamIO *self, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"owner", "send", "receive", "limit", "high", NULL};
    PyObject *owner, *send, *receive;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOOin", names, &owner, &send, &receive,
                                     &self->limit, &self->high))
        return -1;
    Py_XSETREF(self->owner, Py_NewRef(owner));
    Py_XSETREF(self->send, Py_NewRef(send));
    Py_XSETREF(self->receive, Py_NewRef(receive));
    Py_XSETREF(self->protocol, Py_NewRef(Py_None));
    Py_XSETREF(self->buffer, Py_NewRef(Py_None));
    self->direct = self->open = 0;
    return 0;
}

static int stream_traverse(StreamIO *self, visitproc visit, void *arg)
{
    Py_VISIT(self->owner);
    Py_VISIT(self->send);
    Py_VISIT(self->receive);
    Py_VISIT(self->protocol);
    Py_VISIT(self->buffer);
    return 0;
}

static int stream_clear(StreamIO *self)
{
    Py_CLEAR(self->owner);
    Py_CLEAR(self->send);
    Py_CLEAR(self->receive);
    Py_CLEAR(self->protocol);
    Py_CLEAR(self->buffer);
    return 0;
}

static void stream_dealloc(StreamIO *self)
{
    PyObject_GC_UnTrack(self);
    stream_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef stream_members[] = {
    {"buffer", T_OBJECT_EX, offsetof(StreamIO, buffer), 0, NULL},
    {"size", T_PYSSIZET, offsetof(StreamIO, size), 0, NULL},
    {"high", T_PYSSIZET, offsetof(StreamIO, high), 0, NULL},
    {"direct", T_BOOL, offsetof(StreamIO, direct), 0, NULL},
    {"full", T_BOOL, offsetof(StreamIO, full), 0, NULL},
    {"open", T_BOOL, offsetof(StreamIO, open), 0, NULL},
    {"reading", T_BOOL, offsetof(StreamIO, reading), 0, NULL},
    {"protocol", T_OBJECT_EX, offsetof(StreamIO, protocol), 0, NULL},
    {NULL},
};

static PyMethodDef stream_methods[] = {
    {"write", (PyCFunction)stream_write, METH_O, PyDoc_STR("Send bytes.")},
    {"keep", (PyCFunction)stream_keep, METH_O, PyDoc_STR("Have bytes wait to be sent.")},
    {"flush", (PyCFunction)stream_flush, METH_O,
     PyDoc_STR("Send what waits, as much as the socket takes.")},
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
