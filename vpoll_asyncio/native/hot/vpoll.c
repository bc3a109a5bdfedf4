/* FileState and VPollState: a mask, and whom to tell. */

#include "hot.h"

enum { COMMAND_ADD = 1, COMMAND_DEL = 2, COMMAND_SET = 3 };

int call_waiters(FileState *file, unsigned int mask)
{
    PyObject *waiters = file->waiters;
    if (!waiters || !PyTuple_Check(waiters))
        return 0;
    Py_ssize_t count = PyTuple_GET_SIZE(waiters);
    if (!count)
        return 0;
    int result = 0;
    PyObject *boxed = NULL;
    Py_INCREF(waiters);
    for (Py_ssize_t index = 0; index < count && !result; index++) {
        PyObject *waiter = PyTuple_GET_ITEM(waiters, index);
        if (Py_TYPE(waiter)->tp_call == WatchState_Type.tp_call) {
            result = watch_wake((WatchState *)waiter, mask);
            continue;
        }
        if (Py_TYPE(waiter) == &ReaderState_Type) {
            result = reader_notice(waiter, mask);
            continue;
        }
        if (!boxed && !(boxed = PyLong_FromUnsignedLong(mask))) {
            result = -1;
            break;
        }
        PyObject *returned = PyObject_CallOneArg(waiter, boxed);
        Py_XDECREF(returned);
        result = returned ? 0 : -1;
    }
    Py_XDECREF(boxed);
    Py_DECREF(waiters);
    return result;
}

static int file_traverse(FileState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->pending);
    Py_VISIT(self->waiters);
    Py_VISIT(self->apply);
    return 0;
}

static int file_clear(FileState *self)
{
    Py_CLEAR(self->pending);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->apply);
    return 0;
}

static void file_dealloc(FileState *self)
{
    PyObject_GC_UnTrack(self);
    file_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef file_members[] = {
    {"mask", T_UINT, offsetof(FileState, mask), 0, NULL},
    {"pending", T_OBJECT, offsetof(FileState, pending), 0, NULL},
    {"waiters", T_OBJECT, offsetof(FileState, waiters), 0, NULL},
    {"apply", T_OBJECT, offsetof(FileState, apply), 0, NULL},
    {"bias", T_LONG, offsetof(FileState, bias), 0, NULL},
    {"direct", T_LONG, offsetof(FileState, direct), 0, NULL},
    {"ready", T_LONG, offsetof(FileState, ready), 0, NULL},
    {"waiting", T_BOOL, offsetof(FileState, waiting), 0, NULL},
    {NULL},
};

PyTypeObject FileState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.vpoll.FileState",
    .tp_basicsize = sizeof(FileState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)file_traverse,
    .tp_clear = (inquiry)file_clear,
    .tp_dealloc = (destructor)file_dealloc,
    .tp_members = file_members,
};

static int parse_mask(PyObject *argument, unsigned int *mask)
{
    PyObject *index = PyNumber_Index(argument);
    if (!index)
        return -1;
    int overflow;
    long value = PyLong_AsLongAndOverflow(index, &overflow);
    if (value == -1 && PyErr_Occurred()) {
        Py_DECREF(index);
        return -1;
    }
    if (overflow || value & ~(long)KEPT_EVENTS) {
        PyObject *error = PyObject_CallOneArg(bad_mask, index);
        Py_DECREF(index);
        if (error) {
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
            Py_DECREF(error);
        }
        return -1;
    }
    Py_DECREF(index);
    *mask = (unsigned int)value;
    return 0;
}

static unsigned int outcome(unsigned int before, int command, unsigned int mask)
{
    if (command == COMMAND_ADD)
        return before | mask;
    return command == COMMAND_DEL ? before & ~mask : mask;
}

/* What VPoll.operate does for the thread that has the bias. */
static PyObject *change_direct(FileState *file, int command, unsigned int mask)
{
    unsigned int new = outcome(file->mask, command, mask);
    PyObject *boxed[] = {PyLong_FromLong(command), PyLong_FromUnsignedLong(mask),
                         PyLong_FromUnsignedLong(new)};
    PyObject *known = NULL;
    if (boxed[0] && boxed[1] && boxed[2]) {
        file->direct = file->ready;
        file->ready = 0;
        file->mask = new;
        known = PyObject_Vectorcall(file->apply, boxed, 3, NULL);
        file->direct = 0;
    }
    for (int index = 0; index < 3; index++)
        Py_XDECREF(boxed[index]);
    if (!known) {
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return NULL;
        PyObject *error = take_exception();
        PyObject *result = PyObject_CallMethodOneArg((PyObject *)file, str_end_direct, error);
        Py_DECREF(error);
        return result;
    }
    unsigned int shown = (unsigned int)PyLong_AsUnsignedLongMask(known);
    Py_DECREF(known);
    if (PyErr_Occurred())
        return NULL;
    if (shown != new)
        new = file->mask = shown;
    if (file->waiting)
        return PyObject_CallMethodNoArgs((PyObject *)file, str_end_direct);
    file->ready = file->bias;
    return call_waiters(file, new) ? NULL : PyLong_FromUnsignedLong(new);
}

static PyObject *change(VPollState *self, PyObject *argument, int command)
{
    unsigned int mask;
    if (parse_mask(argument, &mask))
        return NULL;
    FileState *file = plain_file((PyObject *)self);
    if (!file && self->file && PyObject_TypeCheck(self->file, &FileState_Type)) {
        file = (FileState *)self->file;
        if (is_set(file->apply) && file->ready &&
            file->ready == (long)PyThread_get_thread_ident()) {
            Py_INCREF(file);
            PyObject *result = change_direct(file, command, mask);
            Py_DECREF(file);
            return result;
        }
        file = NULL;
    }
    if (!file) {
        PyObject *boxed[] = {(PyObject *)self, PyLong_FromLong(command),
                             PyLong_FromUnsignedLong(mask)};
        PyObject *result = NULL;
        if (boxed[1] && boxed[2])
            result = PyObject_VectorcallMethod(str_operate, boxed, 3, NULL);
        Py_XDECREF(boxed[1]);
        Py_XDECREF(boxed[2]);
        return result;
    }
    file->mask = mask = outcome(file->mask, command, mask);
    Py_INCREF(file);
    int failed = call_waiters(file, mask);
    Py_DECREF(file);
    return failed ? NULL : PyLong_FromUnsignedLong(mask);
}

static PyObject *add_events(VPollState *self, PyObject *mask)
{
    return change(self, mask, COMMAND_ADD);
}

static PyObject *del_events(VPollState *self, PyObject *mask)
{
    return change(self, mask, COMMAND_DEL);
}

static PyObject *set_events(VPollState *self, PyObject *mask)
{
    return change(self, mask, COMMAND_SET);
}

static PyObject *peek(VPollState *self, PyObject *Py_UNUSED(ignored))
{
    FileState *file = plain_file((PyObject *)self);
    if (!file)
        return PyObject_CallMethodNoArgs((PyObject *)self, str_ask);
    return PyLong_FromUnsignedLong(file->mask);
}

static int vpoll_traverse(VPollState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->file);
    return 0;
}

static int vpoll_clear(VPollState *self)
{
    Py_CLEAR(self->file);
    return 0;
}

static void vpoll_dealloc(VPollState *self)
{
    PyObject_GC_UnTrack(self);
    vpoll_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef vpoll_members[] = {
    {"file", T_OBJECT, offsetof(VPollState, file), 0, NULL},
    {NULL},
};

static PyMethodDef vpoll_methods[] = {
    {"add_events", (PyCFunction)add_events, METH_O,
     PyDoc_STR("add_events($self, mask, /)\n--\n\n"
               "Add `mask` to the pending events, wake the waiters, return the new mask.")},
    {"del_events", (PyCFunction)del_events, METH_O,
     PyDoc_STR("del_events($self, mask, /)\n--\n\n"
               "Remove `mask` from the pending events, wake the waiters, return the new mask.")},
    {"set_events", (PyCFunction)set_events, METH_O,
     PyDoc_STR("set_events($self, mask, /)\n--\n\n"
               "Make `mask` the pending events, wake the waiters, return the new mask.")},
    {"peek", (PyCFunction)peek, METH_NOARGS,
     PyDoc_STR("peek($self, /)\n--\n\nReturn the pending events as a plain int.")},
    {NULL},
};

PyTypeObject VPollState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.vpoll.VPollState",
    .tp_basicsize = sizeof(VPollState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)vpoll_traverse,
    .tp_clear = (inquiry)vpoll_clear,
    .tp_dealloc = (destructor)vpoll_dealloc,
    .tp_members = vpoll_members,
    .tp_methods = vpoll_methods,
};
