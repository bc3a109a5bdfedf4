/* make_trigger: a function that queues a handle and wakes the loop if it sleeps. */

#include "hot.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *handle, *push, *selector, *rouse;
} Trigger;

static PyObject *trigger_call(PyObject *callable, PyObject *const *arguments, size_t count,
                              PyObject *names)
{
    if (PyVectorcall_NARGS(count) || names) {
        PyErr_SetString(PyExc_TypeError, "a trigger takes no arguments");
        return NULL;
    }
    Trigger *self = (Trigger *)callable;
    if (!self->selector) {
        PyErr_SetString(PyExc_RuntimeError, "a trigger was collected as garbage");
        return NULL;
    }
    SelectorState *selector = (SelectorState *)Py_NewRef(self->selector);
    PyObject *rouse = Py_NewRef(self->rouse);
    PyObject *result = PyObject_CallOneArg(self->push, self->handle);
    if (result) {
        selector->spare = 1;
        if (selector->asleep)
            Py_SETREF(result, PyObject_CallNoArgs(rouse));
    }
    Py_DECREF(rouse);
    Py_DECREF(selector);
    if (!result)
        return NULL;
    Py_DECREF(result);
    Py_RETURN_NONE;
}

static int trigger_traverse(Trigger *self, visitproc visit, void *arg)
{
    Py_VISIT(self->handle);
    Py_VISIT(self->push);
    Py_VISIT(self->selector);
    Py_VISIT(self->rouse);
    return 0;
}

static int trigger_clear(Trigger *self)
{
    Py_CLEAR(self->handle);
    Py_CLEAR(self->push);
    Py_CLEAR(self->selector);
    Py_CLEAR(self->rouse);
    return 0;
}

static void trigger_dealloc(Trigger *self)
{
    PyObject_GC_UnTrack(self);
    trigger_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject Trigger_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.turn.Trigger",
    .tp_basicsize = sizeof(Trigger),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_vectorcall_offset = offsetof(Trigger, call),
    .tp_call = PyVectorcall_Call,
    .tp_traverse = (traverseproc)trigger_traverse,
    .tp_clear = (inquiry)trigger_clear,
    .tp_dealloc = (destructor)trigger_dealloc,
};

PyObject *make_trigger(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 4 || !PyObject_TypeCheck(arguments[2], &SelectorState_Type)) {
        PyErr_SetString(PyExc_TypeError, "make_trigger() takes handle, push, selector, rouse");
        return NULL;
    }
    Trigger *self = (Trigger *)Trigger_Type.tp_alloc(&Trigger_Type, 0);
    if (!self)
        return NULL;
    self->call = trigger_call;
    self->handle = Py_NewRef(arguments[0]);
    self->push = Py_NewRef(arguments[1]);
    self->selector = Py_NewRef(arguments[2]);
    self->rouse = Py_NewRef(arguments[3]);
    return (PyObject *)self;
}
