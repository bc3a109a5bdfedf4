/* Masks: shows the changed masks of sockets on their vpolls.  stacks/lwip/masks.py says what
 * is promised. */

#include "calls.h"

/* One thread at a time, so that no older mask overwrites a newer one.  The others wait: a
 * thread that went on with a mask that is out of date would ask a socket again and again.
 * Who comes from inside a waiter, or from a signal handler, gets 0 and leaves it to the call
 * that it interrupted, which looks again. */
int masks_enter(Masks *self)
{
    unsigned long me = PyThread_get_thread_ident();
    if (self->busy && self->owner == me)
        return 0;
    if (!PyThread_acquire_lock(self->lock, NOWAIT_LOCK)) {
        PyThread_type_lock lock = self->lock;
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
    self->owner = me;
    self->busy = 1;
    return 1;
}

void masks_leave(Masks *self)
{
    /* In a child that a waiter has forked the lock is another one, which nobody holds. */
    if (!self->busy || self->owner != PyThread_get_thread_ident())
        return;
    self->busy = 0;
    PyThread_release_lock(self->lock);
}

/* Takes what set_events() raised where it concerns the socket's own waiters only, who know
 * it: the vpoll is closed, or its kernel object is gone. */
static int forgive(PyObject *vpoll)
{
    PyObject *type, *value, *traceback, *closed = NULL, *failure = NULL;
    int passing = 0;
    if (!PyErr_ExceptionMatches(PyExc_OSError))
        return -1;
    PyErr_Fetch(&type, &value, &traceback);
    if ((closed = PyObject_GetAttr(vpoll, str_closed)) != NULL
        && (failure = PyObject_GetAttr(vpoll, str_failure)) != NULL)
        passing = PyObject_IsTrue(closed) == 1 || failure != Py_None;
    Py_XDECREF(closed);
    Py_XDECREF(failure);
    if (!passing) {
        PyErr_Restore(type, value, traceback);
        return -1;
    }
    PyErr_Clear();
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return 0;
}

static int set_events(PyObject *vpoll, PyObject *mask)
{
    PyObject *result = PyObject_CallMethodOneArg(vpoll, str_set_events, mask);
    Py_XDECREF(result);
    return result ? 0 : forgive(vpoll);
}

/* The file of a vpoll whose mask may be assigned, Py_None for one that takes set_events(),
 * or NULL with an exception. */
PyObject *plain_file(PyObject *vpoll)
{
    PyObject *file = PyObject_GetAttr(vpoll, str_file), *pending;
    if (file == NULL || file == Py_None)
        return file;
    pending = PyObject_GetAttr(file, str_pending);
    if (pending == Py_None) {
        Py_DECREF(pending);
        return file;
    }
    Py_DECREF(file);
    if (pending == NULL)
        return NULL;
    Py_DECREF(pending);
    return Py_NewRef(Py_None);
}

static int call_waiters(PyObject *file, PyObject *mask)
{
    PyObject *waiters = PyObject_GetAttr(file, str_waiters);
    int failed = waiters == NULL;
    if (!failed && !PyTuple_Check(waiters)) {
        PyErr_SetString(PyExc_TypeError, "waiters is no tuple");
        failed = 1;
    }
    for (Py_ssize_t i = 0; !failed && i < PyTuple_GET_SIZE(waiters); i++) {
        PyObject *result = PyObject_CallOneArg(PyTuple_GET_ITEM(waiters, i), mask);
        failed = result == NULL;
        Py_XDECREF(result);
    }
    Py_XDECREF(waiters);
    return failed ? -1 : 0;
}

static int show_one(Masks *self, PyObject *handle, PyObject *mask)
{
    PyObject *vpoll = PyDict_GetItemWithError(self->vpolls, handle), *file;
    int failed;
    if (vpoll == NULL)
        /* Accepted in another thread, which has not registered it yet, or closed. */
        return PyErr_Occurred() ? -1 : PyDict_SetItem(self->early, handle, mask);
    Py_INCREF(vpoll);
    file = plain_file(vpoll);
    if (file == NULL)
        failed = -1;
    else if (file == Py_None)
        failed = set_events(vpoll, mask);
    else if (!(failed = PyObject_SetAttr(file, str_mask, mask)))
        failed = call_waiters(file, mask);
    Py_XDECREF(file);
    Py_DECREF(vpoll);
    return failed;
}

/* Have the socket collected once more: its mask was not shown. */
void masks_tell(uint64_t handle)
{
    Py_BEGIN_ALLOW_THREADS
    vp_tell(handle);
    Py_END_ALLOW_THREADS
}

static int show(Masks *self, int count)
{
    for (int i = 0; i < count; i++) {
        PyObject *handle = PyLong_FromUnsignedLongLong(self->handles[i]);
        PyObject *mask = PyLong_FromUnsignedLong(self->masks[i]);
        int failed = handle == NULL || mask == NULL || show_one(self, handle, mask);
        Py_XDECREF(handle);
        Py_XDECREF(mask);
        if (failed) {
            while (i < count)
                masks_tell(self->handles[i++]);
            return -1;
        }
    }
    return 0;
}

static PyObject *masks_publish(Masks *self, PyObject *unused)
{
    (void)unused;
    while (status.dirty || self->busy) {
        int count, failed;
        if (!masks_enter(self))
            break;
        Py_BEGIN_ALLOW_THREADS
        count = vp_collect(self->handles, self->masks, COLLECT);
        Py_END_ALLOW_THREADS
        failed = show(self, count);
        masks_leave(self);
        if (failed)
            return NULL;
    }
    Py_RETURN_NONE;
}

int masks_turn(Masks *self, int readable)
{
    int mine = masks_enter(self), count, failed = 0;
    Py_BEGIN_ALLOW_THREADS
    count = vp_turn(readable, self->handles, self->masks, mine ? COLLECT : 0);
    Py_END_ALLOW_THREADS
    if (mine) {
        failed = show(self, count);
        masks_leave(self);
    }
    return failed;
}

static PyObject *masks_turn_method(Masks *self, PyObject *readable)
{
    long wanted = PyLong_AsLong(readable);
    if ((wanted == -1 && PyErr_Occurred()) || masks_turn(self, (int)wanted))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *masks_register(Masks *self, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *mask;
    int failed;
    if (!takes(count, 2) || PyDict_SetItem(self->vpolls, arguments[0], arguments[1]))
        return NULL;
    mask = PyDict_GetItemWithError(self->early, arguments[0]);
    if (mask != NULL) {
        Py_INCREF(mask);
        failed = PyDict_DelItem(self->early, arguments[0]) || set_events(arguments[1], mask);
        Py_DECREF(mask);
        if (failed)
            return NULL;
    } else if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int discard(PyObject *dict, PyObject *key)
{
    int found = PyDict_Contains(dict, key);
    return found > 0 ? PyDict_DelItem(dict, key) : found;
}

static PyObject *masks_forget(Masks *self, PyObject *handle)
{
    if (discard(self->vpolls, handle) || discard(self->early, handle))
        return NULL;
    Py_RETURN_NONE;
}

/* The threads that held the lock are not in the child. */
static PyObject *masks_after_fork(Masks *self, PyObject *unused)
{
    PyThread_type_lock lock = PyThread_allocate_lock();
    (void)unused;
    if (lock == NULL)
        return PyErr_NoMemory();
    self->lock = lock;
    self->busy = 0;
    Py_RETURN_NONE;
}

static PyObject *masks_get_busy(Masks *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(self->busy);
}

static int masks_traverse(Masks *self, visitproc visit, void *arg)
{
    Py_VISIT(self->vpolls);
    Py_VISIT(self->early);
    return 0;
}

static PyObject *masks_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    Masks *self;
    if (!PyArg_ParseTuple(arguments, ":Masks") || (keywords && PyDict_GET_SIZE(keywords)))
        return PyErr_Occurred() ? NULL : (PyErr_BadArgument(), NULL);
    if ((self = (Masks *)type->tp_alloc(type, 0)) == NULL)
        return NULL;
    self->vpolls = PyDict_New();
    self->early = PyDict_New();
    self->lock = PyThread_allocate_lock();
    if (self->vpolls == NULL || self->early == NULL || self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int masks_clear(Masks *self)
{
    PyDict_Clear(self->vpolls);
    PyDict_Clear(self->early);
    return 0;
}

static void masks_dealloc(Masks *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->vpolls);
    Py_XDECREF(self->early);
    if (self->lock != NULL)
        PyThread_free_lock(self->lock);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef masks_methods[] = {
    {"register", FAST(masks_register), METH_FASTCALL, NULL},
    {"forget", (PyCFunction)masks_forget, METH_O, NULL},
    {"publish", (PyCFunction)masks_publish, METH_NOARGS, NULL},
    {"turn", (PyCFunction)masks_turn_method, METH_O, NULL},
    {"after_fork", (PyCFunction)masks_after_fork, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef masks_properties[] = {
    {"busy", (getter)masks_get_busy, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject Masks_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "_vpoll_lwip_calls.Masks",
    .tp_basicsize = sizeof(Masks),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = masks_new,
    .tp_traverse = (traverseproc)masks_traverse,
    .tp_clear = (inquiry)masks_clear,
    .tp_dealloc = (destructor)masks_dealloc,
    .tp_methods = masks_methods,
    .tp_getset = masks_properties,
};
