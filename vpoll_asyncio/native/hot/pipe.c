/* PipeState: data between two endpoints in memory that are connected and healthy.
 *
 * Python code that changes an endpoint in several steps holds its lock.  What follows
 * holds the interpreter's, so it is enough that nobody else has the endpoint's. */

#include "hot.h"

enum { SHUT_RECEIVING = 1, SHUT_SENDING = 2, ESTABLISHED = 3, CLOSE_WAIT = 4 };
enum { READABLE = EVENT_IN | EVENT_RDNORM, WRITABLE = EVENT_OUT | EVENT_WRNORM };
enum { FIN_WAITS = 1 };
enum { LARGE = 1024, PIECES = 64 };

static int has_room(PipeState *self, PipeState *peer)
{
    return 3 * (peer->used - peer->rcvbuf) <= 2 * self->sndbuf;
}

/* Whether data that were taken change anything for the peer, or let its FIN in. */
static int room_matters(PipeState *self)
{
    if (self->fin == FIN_WAITS && self->used <= self->rcvbuf)
        return 1;
    if (!is_set(self->peer) || !PyObject_TypeCheck(self->peer, &PipeState_Type))
        return 0;
    PipeState *peer = (PipeState *)self->peer;
    return !peer->orphan && !(peer->mask & EVENT_OUT) && has_room(peer, self);
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

static int queue(PipeState *peer, PyObject *data)
{
    PyObject *chunks = peer->chunks;
    if (!chunks || !PyList_CheckExact(chunks) || PyList_GET_SIZE(chunks) >= PIECES)
        return notify_with((PyObject *)peer, str_append, data);
    if (PyList_Append(chunks, data))
        return -1;
    peer->used += PyBytes_GET_SIZE(data);
    return 0;
}

PyObject *pipe_send(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    PipeState *self = (PipeState *)object;
    if (count < 1 || count > 3) {
        PyErr_SetString(PyExc_TypeError, "send() takes data, flags and an address");
        return NULL;
    }
    PyObject *data = arguments[0];
    long flags = count > 1 ? PyLong_AsLong(arguments[1]) : 0;
    if (flags == -1 && PyErr_Occurred())
        return NULL;
    PipeState *peer = NULL;
    Py_ssize_t size = 0;
    int everyday = !flags && PyBytes_CheckExact(data) && lock_is_free(self->lock) && self->peer &&
                   PyObject_TypeCheck(self->peer, &PipeState_Type);
    if (everyday) {
        peer = (PipeState *)self->peer;
        size = PyBytes_GET_SIZE(data);
        everyday = (self->state == ESTABLISHED || self->state == CLOSE_WAIT) && !self->error &&
                   !(self->shut & SHUT_SENDING) && !(peer->shut & SHUT_RECEIVING) &&
                   !peer->orphan && size && size <= self->sndbuf + peer->rcvbuf - peer->used;
    }
    if (!everyday) {
        PyObject *boxed[] = {object, data, count > 1 ? arguments[1] : NULL};
        PyObject *zero = NULL;
        if (!boxed[2])
            boxed[2] = zero = PyLong_FromLong(0);
        PyObject *result = PyObject_VectorcallMethod(str_send_special, boxed, 3, NULL);
        Py_XDECREF(zero);
        return result;
    }
    Py_INCREF(peer);
    PyObject *result = NULL;
    if (queue(peer, data))
        goto done;
    if (peer->urg || peer->lowat > 1) {
        if (notify((PyObject *)peer, str_refresh))
            goto done;
    } else {
        peer->mask |= READABLE;
    }
    if (peer->used > peer->rcvbuf && !has_room(self, peer)) {
        self->mask &= ~(unsigned int)WRITABLE;
        if (show_cleared(self))
            goto done;
    }
    if (!show(peer))
        result = PyLong_FromSsize_t(size);
done:
    Py_DECREF(peer);
    return result;
}

PyObject *pipe_recv_some(PyObject *object, PyObject *bufsize)
{
    PipeState *self = (PipeState *)object;
    Py_ssize_t wanted = PyNumber_AsSsize_t(bufsize, PyExc_OverflowError);
    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    PyObject *chunks = self->chunks;
    Py_ssize_t waiting = chunks && PyList_CheckExact(chunks) ? PyList_GET_SIZE(chunks) : 0;
    PyObject *data = waiting ? PyList_GET_ITEM(chunks, 0) : NULL;
    if (!data || !PyBytes_CheckExact(data) || !self->used || self->urg || self->lowat > 1 ||
        !lock_is_free(self->lock) || PyBytes_GET_SIZE(data) > wanted ||
        (waiting > 1 && PyBytes_GET_SIZE(data) < LARGE)) {
        PyObject *boxed[] = {object, bufsize, PyLong_FromLong(0)};
        PyObject *result = NULL;
        if (boxed[2])
            result = PyObject_VectorcallMethod(str_recv_special, boxed, 3, NULL);
        Py_XDECREF(boxed[2]);
        return result;
    }
    Py_INCREF(data);
    Py_ssize_t before = self->used;
    if (PyList_SetSlice(chunks, 0, 1, NULL))
        goto failed;
    self->used -= PyBytes_GET_SIZE(data);
    int emptied = !self->used && !(self->shut & SHUT_RECEIVING);
    if (emptied)
        self->mask &= ~(unsigned int)READABLE;
    PyObject *touched = NULL;
    if (before > self->rcvbuf && room_matters(self)) {
        if (!(touched = PyList_New(0)) || notify_with(object, str_room_made, touched)) {
            Py_XDECREF(touched);
            goto failed;
        }
    }
    if (emptied && show_cleared(self)) {
        Py_XDECREF(touched);
        goto failed;
    }
    for (Py_ssize_t index = 0; touched && index < PyList_GET_SIZE(touched); index++) {
        PyObject *each = Py_NewRef(PyList_GET_ITEM(touched, index));
        int bad = PyObject_TypeCheck(each, &PipeState_Type) ? show((PipeState *)each)
                                                            : notify(each, str_show);
        Py_DECREF(each);
        if (bad) {
            Py_DECREF(touched);
            goto failed;
        }
    }
    Py_XDECREF(touched);
    return data;
failed:
    Py_DECREF(data);
    return NULL;
}

static PyObject *show_cleared_method(PipeState *self, PyObject *Py_UNUSED(ignored))
{
    return show_cleared(self) ? NULL : Py_NewRef(Py_None);
}

static int pipe_init(PipeState *self, PyObject *arguments, PyObject *keywords)
{
    self->lowat = 1;
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
    {"chunks", T_OBJECT, offsetof(PipeState, chunks), 0, NULL},
    {"lock", T_OBJECT, offsetof(PipeState, lock), 0, NULL},
    {"peer", T_OBJECT, offsetof(PipeState, peer), 0, NULL},
    {"vpoll", T_OBJECT, offsetof(PipeState, vpoll), 0, NULL},
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
