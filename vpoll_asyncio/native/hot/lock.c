/* A re-entrant lock, as threading.RLock is, of which can be told whether it is free. */

#include "hot.h"

int lock_is_free(PyObject *object)
{
    if (!object || Py_TYPE(object) != &Lock_Type)
        return 0;
    Lock *self = (Lock *)object;
    return !self->depth || self->owner == PyThread_get_thread_ident();
}

static PyObject *acquire(Lock *self, PyObject *Py_UNUSED(ignored))
{
    unsigned long me = PyThread_get_thread_ident();
    if (self->depth && self->owner == me) {
        self->depth++;
        Py_RETURN_TRUE;
    }
    if (PyThread_acquire_lock(self->lock, NOWAIT_LOCK) != 1) {
        for (;;) {
            PyLockStatus status;
            Py_BEGIN_ALLOW_THREADS
            status = PyThread_acquire_lock_timed(self->lock, -1, 1);
            Py_END_ALLOW_THREADS
            if (status == PY_LOCK_ACQUIRED)
                break;
            if (PyErr_CheckSignals())
                return NULL;
        }
    }
    self->owner = me;
    self->depth = 1;
    Py_RETURN_TRUE;
}

static PyObject *release(Lock *self, PyObject *Py_UNUSED(ignored))
{
    if (!self->depth || self->owner != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return NULL;
    }
    if (!--self->depth)
        PyThread_release_lock(self->lock);
    Py_RETURN_NONE;
}

static PyObject *leave(Lock *self, PyObject *const *arguments, Py_ssize_t count)
{
    return release(self, NULL);
}

static PyObject *lock_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    Lock *self = (Lock *)type->tp_alloc(type, 0);
    if (self && !(self->lock = PyThread_allocate_lock())) {
        Py_CLEAR(self);
        PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void lock_dealloc(Lock *self)
{
    if (self->lock) {
        if (self->depth)
            PyThread_release_lock(self->lock);
        PyThread_free_lock(self->lock);
    }
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)acquire, METH_NOARGS, PyDoc_STR("Wait for the lock and take it.")},
    {"release", (PyCFunction)release, METH_NOARGS, PyDoc_STR("Give the lock back.")},
    {"__enter__", (PyCFunction)acquire, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))leave, METH_FASTCALL, NULL},
    {NULL},
};

PyTypeObject Lock_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.pipe.Lock",
    .tp_basicsize = sizeof(Lock),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = lock_new,
    .tp_dealloc = (destructor)lock_dealloc,
    .tp_methods = lock_methods,
};
