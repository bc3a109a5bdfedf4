/* FileState and VPollState: a mask, and whom to tell. */

#include "hot.h"

enum { COMMAND_ADD = 1, COMMAND_DEL = 2, COMMAND_SET = 3 };

static int tell(PyObject *waiter, unsigned int mask)
{
    if (Py_TYPE(waiter)->tp_call == WatchState_Type.tp_call)
        return watch_wake((WatchState *)waiter, mask);
    if (Py_TYPE(waiter) == &ReaderState_Type)
        return reader_notice(waiter, mask);
    PyObject *boxed = PyLong_FromUnsignedLong(mask);
    PyObject *returned = boxed ? PyObject_CallOneArg(waiter, boxed) : NULL;
    Py_XDECREF(boxed);
    Py_XDECREF(returned);
    return returned ? 0 : -1;
}

int call_waiters(FileState *file, unsigned int mask)
{
    PyObject *waiters = file->waiters;
    if (!waiters)
        return 0;
    int result = 0;
    Py_INCREF(waiters);
    if (!PyTuple_CheckExact(waiters))
        result = tell(waiters, mask);
    else
        for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(waiters) && !result; index++)
            result = tell(PyTuple_GET_ITEM(waiters, index), mask);
    Py_DECREF(waiters);
    return result;
}

/* The waiters as a tuple, a new reference. */
static PyObject *get_waiters(FileState *self, void *Py_UNUSED(closure))
{
    PyObject *waiters = self->waiters;
    if (!waiters)
        return PyTuple_New(0);
    return PyTuple_CheckExact(waiters) ? Py_NewRef(waiters) : PyTuple_Pack(1, waiters);
}

static int set_waiters(FileState *self, PyObject *waiters, void *Py_UNUSED(closure))
{
    if (!waiters || !PyTuple_CheckExact(waiters)) {
        PyErr_SetString(PyExc_TypeError, "waiters must be a tuple");
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(waiters);
    if (count == 1 && !PyTuple_CheckExact(PyTuple_GET_ITEM(waiters, 0)))
        waiters = PyTuple_GET_ITEM(waiters, 0);
    PyObject *before = self->waiters;
    self->waiters = count ? Py_NewRef(waiters) : NULL;
    Py_XDECREF(before);
    return 0;
}

static int file_init(FileState *self, PyObject *arguments, PyObject *keywords)
{
    if (keywords && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "FileState takes no keyword arguments");
        return -1;
    }
    Py_XSETREF(self->pending, Py_NewRef(Py_None));
    return PyArg_ParseTuple(arguments, "I:FileState", &self->mask) ? 0 : -1;
}

static int file_traverse(FileState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->pending);
    Py_VISIT(self->waiters);
    return 0;
}

static int file_clear(FileState *self)
{
    Py_CLEAR(self->pending);
    Py_CLEAR(self->waiters);
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
    {"pending", T_OBJECT_EX, offsetof(FileState, pending), 0, NULL},
    {NULL},
};

static PyGetSetDef file_getters[] = {
    {"waiters", (getter)get_waiters, (setter)set_waiters, NULL, NULL},
    {NULL},
};

PyTypeObject FileState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.vpoll.FileState",
    .tp_basicsize = sizeof(FileState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)file_init,
    .tp_traverse = (traverseproc)file_traverse,
    .tp_clear = (inquiry)file_clear,
    .tp_dealloc = (destructor)file_dealloc,
    .tp_members = file_members,
    .tp_getset = file_getters,
};

static int direct_traverse(DirectState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->apply);
    return file_traverse(&self->file, visit, arg);
}

static int direct_clear(DirectState *self)
{
    Py_CLEAR(self->apply);
    return file_clear(&self->file);
}

static void direct_dealloc(DirectState *self)
{
    PyObject_GC_UnTrack(self);
    direct_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef direct_members[] = {
    {"apply", T_OBJECT_EX, offsetof(DirectState, apply), 0, NULL},
    {"bias", T_LONG, offsetof(DirectState, bias), 0, NULL},
    {"direct", T_LONG, offsetof(DirectState, direct), 0, NULL},
    {"ready", T_LONG, offsetof(DirectState, ready), 0, NULL},
    {"waiting", T_BOOL, offsetof(DirectState, waiting), 0, NULL},
    {NULL},
};

PyTypeObject DirectState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.vpoll.DirectState",
    .tp_base = &FileState_Type,
    .tp_basicsize = sizeof(DirectState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)direct_traverse,
    .tp_clear = (inquiry)direct_clear,
    .tp_dealloc = (destructor)direct_dealloc,
    .tp_members = direct_members,
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
static PyObject *change_direct(DirectState *self, int command, unsigned int mask)
{
    FileState *file = &self->file;
    unsigned int new = outcome(file->mask, command, mask);
    PyObject *boxed[] = {PyLong_FromLong(command), PyLong_FromUnsignedLong(mask),
                         PyLong_FromUnsignedLong(new)};
    PyObject *known = NULL;
    if (boxed[0] && boxed[1] && boxed[2]) {
        self->direct = self->ready;
        self->ready = 0;
        file->mask = new;
        known = PyObject_Vectorcall(self->apply, boxed, 3, NULL);
        self->direct = 0;
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
    if (self->waiting)
        return PyObject_CallMethodNoArgs((PyObject *)file, str_end_direct);
    self->ready = self->bias;
    return call_waiters(file, new) ? NULL : PyLong_FromUnsignedLong(new);
}

static PyObject *change(VPollState *self, PyObject *argument, int command)
{
    unsigned int mask;
    if (parse_mask(argument, &mask))
        return NULL;
    FileState *file = plain_file((PyObject *)self);
    if (!file) {
        DirectState *direct = (DirectState *)self->file;
        if (direct && PyObject_TypeCheck(direct, &DirectState_Type) && is_set(direct->apply) &&
            direct->ready && direct->ready == (long)PyThread_get_thread_ident()) {
            Py_INCREF(direct);
            PyObject *result = change_direct(direct, command, mask);
            Py_DECREF(direct);
            return result;
        }
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

/* The open file, or NULL when there is none. */
static FileState *open_file(VPollState *self)
{
    PyObject *file = self->file;
    return file && PyObject_TypeCheck(file, &FileState_Type) ? (FileState *)file : NULL;
}

static PyObject *add_waiter(VPollState *self, PyObject *waiter)
{
    for (;;) {
        FileState *file = open_file(self);
        if (!file)
            return PyObject_CallMethodNoArgs((PyObject *)self, str_ask);
        PyObject *before = file->waiters, *longer;
        if (!before && !PyTuple_CheckExact(waiter)) {
            file->waiters = Py_NewRef(waiter);
            Py_RETURN_NONE;
        }
        /* Collecting garbage may run anything. */
        Py_INCREF(file);
        Py_XINCREF(before);
        Py_ssize_t count = !before ? 0 : PyTuple_CheckExact(before) ? PyTuple_GET_SIZE(before) : 1;
        if ((longer = PyTuple_New(count + 1))) {
            for (Py_ssize_t index = 0; index < count; index++)
                PyTuple_SET_ITEM(longer, index, Py_NewRef(PyTuple_CheckExact(before)
                                                          ? PyTuple_GET_ITEM(before, index)
                                                          : before));
            PyTuple_SET_ITEM(longer, count, Py_NewRef(waiter));
        }
        int done = longer && self->file == (PyObject *)file && file->waiters == before;
        if (done) {
            file->waiters = Py_NewRef(longer);
            Py_XDECREF(before);
        }
        Py_XDECREF(before);
        Py_DECREF(file);
        Py_XDECREF(longer);
        if (!longer)
            return NULL;
        if (done)
            Py_RETURN_NONE;
    }
}

/* Where `waiter` is in `waiters`: an index, or -1, or -2 with an exception. */
static Py_ssize_t find(PyObject *waiters, PyObject *waiter)
{
    if (!waiters)
        return -1;
    Py_ssize_t several = PyTuple_CheckExact(waiters) ? PyTuple_GET_SIZE(waiters) : 0;
    for (Py_ssize_t index = 0; index < (several ? several : 1); index++) {
        PyObject *each = several ? PyTuple_GET_ITEM(waiters, index) : waiters;
        int same = PyObject_RichCompareBool(each, waiter, Py_EQ);
        if (same)
            return same < 0 ? -2 : index;
    }
    return -1;
}

/* `waiters` without the one at `index`, a new reference; NULL is empty, or an exception. */
static PyObject *without(PyObject *waiters, Py_ssize_t index)
{
    if (!PyTuple_CheckExact(waiters) || PyTuple_GET_SIZE(waiters) == 1)
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(waiters);
    if (count == 2 && !PyTuple_CheckExact(PyTuple_GET_ITEM(waiters, !index)))
        return Py_NewRef(PyTuple_GET_ITEM(waiters, !index));
    PyObject *shorter = PyTuple_New(count - 1);
    for (Py_ssize_t from = 0, to = 0; shorter && from < count; from++)
        if (from != index)
            PyTuple_SET_ITEM(shorter, to++, Py_NewRef(PyTuple_GET_ITEM(waiters, from)));
    return shorter;
}

static PyObject *remove_waiter(VPollState *self, PyObject *waiter)
{
    for (;;) {
        FileState *file = open_file(self);
        if (!file || !file->waiters)
            Py_RETURN_FALSE;
        PyObject *before = Py_NewRef(file->waiters);
        Py_INCREF(file);
        Py_ssize_t index = find(before, waiter);
        PyObject *shorter = index < 0 ? NULL : without(before, index);
        int failed = index == -2 || PyErr_Occurred();
        int still = self->file == (PyObject *)file && file->waiters == before;
        int done = !failed && index >= 0 && still;
        if (done) {
            file->waiters = Py_XNewRef(shorter);
            Py_DECREF(before);
        }
        Py_DECREF(before);
        Py_DECREF(file);
        Py_XDECREF(shorter);
        if (failed)
            return NULL;
        if (done)
            Py_RETURN_TRUE;
        if (index < 0)
            Py_RETURN_FALSE;
    }
}

static PyObject *succeed(VPollState *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2 || !PyObject_TypeCheck(arguments[0], &FileState_Type) ||
        !PyObject_TypeCheck(arguments[1], &FileState_Type)) {
        PyErr_SetString(PyExc_TypeError, "succeed() takes two files");
        return NULL;
    }
    if (self->file != arguments[0])
        Py_RETURN_FALSE;
    FileState *file = (FileState *)arguments[0], *heir = (FileState *)arguments[1];
    heir->mask = file->mask;
    PyObject *before = heir->waiters;
    heir->waiters = Py_XNewRef(file->waiters);
    self->file = Py_NewRef(heir);
    Py_DECREF(file);
    Py_XDECREF(before);
    Py_RETURN_TRUE;
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
    {"file", T_OBJECT_EX, offsetof(VPollState, file), 0, NULL},
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
    {"add_waiter", (PyCFunction)add_waiter, METH_O,
     PyDoc_STR("add_waiter($self, waiter, /)\n--\n\n"
               "Call `waiter` with the whole mask after every operation from now on.")},
    {"remove_waiter", (PyCFunction)remove_waiter, METH_O,
     PyDoc_STR("remove_waiter($self, waiter, /)\n--\n\n"
               "Take `waiter` from the wait queue; return whether it was there.")},
    {"succeed", (PyCFunction)(void (*)(void))succeed, METH_FASTCALL,
     PyDoc_STR("succeed($self, file, heir, /)\n--\n\n"
               "Put `heir` in the place of `file`, with its mask and waiters.")},
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
