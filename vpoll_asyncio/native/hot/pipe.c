/* PipeState: data between two endpoints in memory that are connected and healthy.
 *
 * Python code that changes an endpoint in several steps holds its lock.  What follows
 * holds the interpreter's, so it is enough that nobody else has the endpoint's. */

#include "hot.h"

enum { SHUT_RECEIVING = 1, SHUT_SENDING = 2, ESTABLISHED = 3, CLOSE_WAIT = 4 };
enum { READABLE = EVENT_IN | EVENT_RDNORM, WRITABLE = EVENT_OUT | EVENT_WRNORM };
enum { FIN_WAITS = 1 };
enum { LARGE = 1024, PIECES = 64, SHARE = 4 };

static int has_room(PipeState *self, PipeState *peer)
{
    return 3 * (peer->used - peer->rcvbuf) <= 2 * self->sndbuf;
}

static int may_send(PipeState *self)
{
    return self->state == ESTABLISHED || self->state == CLOSE_WAIT;
}

/* Sets right what an exception has left half done, as PipeState does: a signal handler may
 * have raised it anywhere in the Python that was called.  Keeps the exception. */
static void mend(PipeState *self)
{
    PyObject *type, *value, *traceback;
    if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_OSError))
        return;
    PyErr_Fetch(&type, &value, &traceback);
    if (notify((PyObject *)self, str_mend))
        PyErr_WriteUnraisable((PyObject *)self);
    PyErr_Restore(type, value, traceback);
}

static int show_cleared(PipeState *self)
{
    if (!is_set(self->vpoll))
        return 0;
    FileState *file = plain_file(self->vpoll);
    if (!file)
        return notify((PyObject *)self, str_show);
    file->mask = self->mask;
    return 0;
}

static int show(PipeState *self)
{
    if (!is_set(self->vpoll))
        return 0;
    FileState *file = plain_file(self->vpoll);
    if (!file)
        return notify((PyObject *)self, str_show);
    unsigned int mask = file->mask = self->mask;
    Py_INCREF(file);
    int failed = call_waiters(file, mask);
    Py_DECREF(file);
    if (!failed && self->mask != mask)
        return notify((PyObject *)self, str_show);
    return failed;
}

/* Bytes, or a flat view, whose length is stored.  Returns 1, 0 or -1. */
static int length_of(PyObject *data, Py_ssize_t *size)
{
    if (PyBytes_CheckExact(data)) {
        *size = PyBytes_GET_SIZE(data);
        return 1;
    }
    if (!PyMemoryView_Check(data))
        return 0;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE))
        return -1;
    *size = view.len;
    Py_buffer *own = PyMemoryView_GET_BUFFER(data);
    int flat = own->itemsize == 1 && own->ndim == 1;
    PyBuffer_Release(&view);
    return flat;
}

/* The first `count` bytes of what length_of() knows, as they may be kept. */
static PyObject *by_reference(PyObject *data, Py_ssize_t count)
{
    PyObject *whole = data;
    if (PyMemoryView_Check(data))
        whole = PyMemoryView_GET_BUFFER(data)->obj;
    if (whole && PyBytes_CheckExact(whole) && PyBytes_GET_SIZE(whole) <= SHARE * count) {
        if (PyBytes_GET_SIZE(whole) == count)
            return Py_NewRef(whole);
        PyObject *view = PyMemoryView_FromObject(data);
        PyObject *kept = view ? PySequence_GetSlice(view, 0, count) : NULL;
        Py_XDECREF(view);
        return kept;
    }
    if (whole == data)
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), count);
    PyObject *first = PySequence_GetSlice(data, 0, count);
    PyObject *copy = first ? PyBytes_FromObject(first) : NULL;
    Py_XDECREF(first);
    return copy;
}

static int queue(PipeState *peer, PyObject *data, Py_ssize_t size)
{
    PyObject *chunks = peer->chunks;
    if (!chunks || !PyList_CheckExact(chunks) || PyList_GET_SIZE(chunks) >= PIECES)
        return notify_with((PyObject *)peer, str_append, data);
    if (PyList_Append(chunks, data))
        return -1;
    peer->used += size;
    return 0;
}

static PyObject *send_special(PyObject *self, PyObject *data, PyObject *flags)
{
    PyObject *boxed[] = {self, data, flags ? Py_NewRef(flags) : PyLong_FromLong(0)};
    if (!boxed[2])
        return NULL;
    PyObject *result = PyObject_VectorcallMethod(str_send_special, boxed, 3, NULL);
    Py_DECREF(boxed[2]);
    if (!result)
        mend((PipeState *)self);
    return result;
}

/* Returns 0, or -1 with an exception. */
static int pass_on(PipeState *self, PipeState *peer, PyObject *data, Py_ssize_t size)
{
    if (queue(peer, data, size))
        return -1;
    if (peer->urg || peer->lowat > 1) {
        if (notify((PyObject *)peer, str_refresh))
            return -1;
    } else {
        peer->mask |= READABLE;
    }
    if (peer->used > peer->rcvbuf && !has_room(self, peer)) {
        self->mask &= ~(unsigned int)WRITABLE;
        if (show_cleared(self))
            return -1;
    }
    return show(peer);
}

Py_ssize_t pipe_offer(PipeState *self, PyObject *data)
{
    Py_ssize_t size = 0;
    int known = length_of(data, &size);
    if (known < 0)
        return -1;
    if (known && size && lock_is_free(self->lock) && self->peer &&
        PyObject_TypeCheck(self->peer, &PipeState_Type)) {
        PipeState *peer = (PipeState *)self->peer;
        Py_ssize_t space = self->sndbuf + peer->rcvbuf - peer->used;
        if (may_send(self) && !self->error && !(self->shut & SHUT_SENDING) &&
            !(peer->shut & SHUT_RECEIVING) && !peer->orphan) {
            if (space <= 0)
                return 0;
            if (size > space)
                size = space;
            Py_INCREF(peer);
            PyObject *kept = by_reference(data, size);
            int failed = kept ? pass_on(self, peer, kept, size) : -1;
            Py_XDECREF(kept);
            Py_DECREF(peer);
            if (failed)
                mend(self);
            return failed ? -1 : size;
        }
    }
    PyObject *result = send_special((PyObject *)self, data, NULL);
    if (!result)
        return -1;
    Py_ssize_t sent = PyLong_AsSsize_t(result);
    Py_DECREF(result);
    if (sent < 0 && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "sent %zd bytes: expected 0 or more, or an exception",
                     sent);
    return sent;
}

PyObject *pipe_send(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count < 1 || count > 3) {
        PyErr_SetString(PyExc_TypeError, "send() takes data, flags and an address");
        return NULL;
    }
    long flags = count > 1 ? PyLong_AsLong(arguments[1]) : 0;
    if (flags == -1 && PyErr_Occurred())
        return NULL;
    if (flags)
        return send_special(self, arguments[0], arguments[1]);
    Py_ssize_t sent = pipe_offer((PipeState *)self, arguments[0]);
    if (sent < 0)
        return NULL;
    Py_ssize_t size = sent ? 0 : PyObject_Size(arguments[0]);
    if (size < 0)
        return NULL;
    if (size)
        /* It says why. */
        return send_special(self, arguments[0], NULL);
    return PyLong_FromSsize_t(sent);
}

/* Tells of what the peer still held and may have arrived now. */
static int tell_of_room(PyObject *self)
{
    PyObject *touched = PyList_New(0);
    int failed = touched ? notify_with(self, str_room_made, touched) : -1;
    for (Py_ssize_t index = 0; !failed && index < PyList_GET_SIZE(touched); index++) {
        PyObject *each = Py_NewRef(PyList_GET_ITEM(touched, index));
        failed = PyObject_TypeCheck(each, &PipeState_Type) ? show((PipeState *)each)
                                                           : notify(each, str_show);
        Py_DECREF(each);
    }
    Py_XDECREF(touched);
    return failed;
}

static int room_made(PipeState *self)
{
    if (self->fin == FIN_WAITS || !is_set(self->peer) ||
        !PyObject_TypeCheck(self->peer, &PipeState_Type) || !may_send((PipeState *)self->peer))
        return tell_of_room((PyObject *)self);
    PipeState *peer = (PipeState *)self->peer;
    if (peer->mask & EVENT_OUT || peer->orphan || !has_room(peer, self))
        return 0;
    peer->mask |= WRITABLE;
    Py_INCREF(peer);
    int failed = show(peer);
    Py_DECREF(peer);
    return failed;
}

PyObject *pipe_take(PipeState *self, Py_ssize_t wanted)
{
    PyObject *chunks = self->chunks;
    Py_ssize_t waiting = chunks && PyList_CheckExact(chunks) ? PyList_GET_SIZE(chunks) : 0;
    PyObject *data = waiting ? PyList_GET_ITEM(chunks, 0) : NULL;
    if (!data || !PyBytes_CheckExact(data) || !self->used || self->urg || self->lowat > 1 ||
        !lock_is_free(self->lock) || PyBytes_GET_SIZE(data) > wanted ||
        (waiting > 1 && PyBytes_GET_SIZE(data) < LARGE)) {
        PyObject *boxed[] = {(PyObject *)self, PyLong_FromSsize_t(wanted), PyLong_FromLong(0)};
        PyObject *result = NULL;
        if (boxed[1] && boxed[2])
            result = PyObject_VectorcallMethod(str_recv_special, boxed, 3, NULL);
        Py_XDECREF(boxed[1]);
        Py_XDECREF(boxed[2]);
        if (!result)
            mend(self);
        return result;
    }
    Py_INCREF(data);
    Py_ssize_t before = self->used;
    if (waiting == 1) {
        /* The list keeps its memory for the next one: most messages are alone. */
        Py_SET_SIZE(chunks, 0);
        Py_DECREF(data);
    } else if (PyList_SetSlice(chunks, 0, 1, NULL)) {
        goto failed;
    }
    self->used -= PyBytes_GET_SIZE(data);
    int emptied = !self->used && !(self->shut & SHUT_RECEIVING);
    if (emptied)
        self->mask &= ~(unsigned int)READABLE;
    if (emptied && show_cleared(self))
        goto failed;
    if (before > self->rcvbuf && room_made(self))
        goto failed;
    return data;
failed:
    Py_DECREF(data);
    mend(self);
    return NULL;
}

PyObject *pipe_recv_some(PyObject *self, PyObject *bufsize)
{
    Py_ssize_t wanted = PyNumber_AsSsize_t(bufsize, PyExc_OverflowError);
    return wanted == -1 && PyErr_Occurred() ? NULL : pipe_take((PipeState *)self, wanted);
}

static PyObject *show_cleared_method(PipeState *self, PyObject *Py_UNUSED(ignored))
{
    return show_cleared(self) ? NULL : Py_NewRef(Py_None);
}

static int pipe_init(PipeState *self, PyObject *arguments, PyObject *keywords)
{
    self->lowat = 1;
    Py_XSETREF(self->chunks, Py_NewRef(Py_None));
    Py_XSETREF(self->lock, Py_NewRef(Py_None));
    Py_XSETREF(self->peer, Py_NewRef(Py_None));
    Py_XSETREF(self->vpoll, Py_NewRef(Py_None));
    return 0;
}

static int pipe_traverse(PipeState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->chunks);
    Py_VISIT(self->lock);
    Py_VISIT(self->peer);
    Py_VISIT(self->vpoll);
    return 0;
}

static int pipe_clear(PipeState *self)
{
    Py_CLEAR(self->chunks);
    Py_CLEAR(self->lock);
    Py_CLEAR(self->peer);
    Py_CLEAR(self->vpoll);
    return 0;
}

static void pipe_dealloc(PipeState *self)
{
    PyObject_GC_UnTrack(self);
    pipe_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef pipe_members[] = {
    {"chunks", T_OBJECT_EX, offsetof(PipeState, chunks), 0, NULL},
    {"lock", T_OBJECT_EX, offsetof(PipeState, lock), 0, NULL},
    {"peer", T_OBJECT_EX, offsetof(PipeState, peer), 0, NULL},
    {"vpoll", T_OBJECT_EX, offsetof(PipeState, vpoll), 0, NULL},
    {"used", T_PYSSIZET, offsetof(PipeState, used), 0, NULL},
    {"sndbuf", T_PYSSIZET, offsetof(PipeState, sndbuf), 0, NULL},
    {"rcvbuf", T_PYSSIZET, offsetof(PipeState, rcvbuf), 0, NULL},
    {"lowat", T_PYSSIZET, offsetof(PipeState, lowat), 0, NULL},
    {"mask", T_UINT, offsetof(PipeState, mask), 0, NULL},
    {"error", T_INT, offsetof(PipeState, error), 0, NULL},
    {"fin", T_INT, offsetof(PipeState, fin), 0, NULL},
    {"shut", T_INT, offsetof(PipeState, shut), 0, NULL},
    {"state", T_INT, offsetof(PipeState, state), 0, NULL},
    {"urg", T_INT, offsetof(PipeState, urg), 0, NULL},
    {"orphan", T_BOOL, offsetof(PipeState, orphan), 0, NULL},
    {NULL},
};

static PyMethodDef pipe_methods[] = {
    {"send", (PyCFunction)(void (*)(void))pipe_send, METH_FASTCALL,
     PyDoc_STR("Send a prefix of the data; return its length.")},
    {"recv_some", pipe_recv_some, METH_O,
     PyDoc_STR("Receive at least one and at most so many bytes.")},
    {"show_cleared", (PyCFunction)show_cleared_method, METH_NOARGS,
     PyDoc_STR("Show a mask that has only lost events.")},
    {NULL},
};

PyTypeObject PipeState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.pipe.PipeState",
    .tp_basicsize = sizeof(PipeState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)pipe_init,
    .tp_traverse = (traverseproc)pipe_traverse,
    .tp_clear = (inquiry)pipe_clear,
    .tp_dealloc = (destructor)pipe_dealloc,
    .tp_members = pipe_members,
    .tp_methods = pipe_methods,
};
