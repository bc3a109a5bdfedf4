/* TurnState and run_ready: what each turn of the asyncio loop does. */

#include "hot.h"

/* asyncio.Handle, where its slots are, and the handle of timers, which has them too. */
static PyTypeObject *handle_type, *timer_type;
static Py_ssize_t handle_callback, handle_args, handle_context, handle_cancelled;

/* _asyncio.report_exception and _asyncio.run_handle. */
static PyObject *report_exception, *run_handle;

static PyObject *slot(PyObject *object, Py_ssize_t offset)
{
    return *(PyObject **)((char *)object + offset);
}

/* Returns 0, or -1 with an exception that ends the program. */
int run_callback(PyObject *handle, PyObject *context, PyObject *callback, PyObject *args)
{
    if (!context || !callback || !args || !PyTuple_CheckExact(args)) {
        PyErr_SetString(PyExc_RuntimeError, "a handle lost its callback");
        return -1;
    }
    PyObject *result = NULL;
    Py_INCREF(context);
    Py_INCREF(callback);
    Py_INCREF(args);
    if (PyContext_Enter(context) == 0) {
        result = PyObject_Vectorcall(callback, ((PyTupleObject *)args)->ob_item,
                                     (size_t)PyTuple_GET_SIZE(args), NULL);
        if (PyContext_Exit(context))
            Py_CLEAR(result);
    }
    Py_DECREF(args);
    Py_DECREF(callback);
    Py_DECREF(context);
    if (result) {
        Py_DECREF(result);
        return 0;
    }
    if (is_exit())
        return -1;
    PyObject *exception = take_exception();
    PyObject *arguments[] = {handle, exception};
    result = PyObject_Vectorcall(report_exception, arguments, 2, NULL);
    Py_DECREF(exception);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int run_plain(PyObject *handle)
{
    PyObject *cancelled = slot(handle, handle_cancelled);
    if (cancelled && cancelled != Py_False)
        return 0;
    return run_callback(handle, slot(handle, handle_context), slot(handle, handle_callback),
                        slot(handle, handle_args));
}

static int run_other(PyObject *handle)
{
    static PyObject *name;
    if (!name && !(name = PyUnicode_InternFromString("_cancelled")))
        return -1;
    PyObject *cancelled = PyObject_GetAttr(handle, name);
    int is_cancelled = cancelled ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    if (is_cancelled)
        return is_cancelled < 0 ? -1 : 0;
    return notify(handle, str__run);
}

PyObject *run_ready(PyObject *module, PyObject *ready)
{
    Py_ssize_t count = PyObject_Size(ready);
    if (count < 0)
        return NULL;
    for (; count; count--) {
        PyObject *handle = PyObject_CallMethodNoArgs(ready, str_popleft);
        if (!handle)
            return NULL;
        int failed;
        if (Py_TYPE(handle) == handle_type || Py_TYPE(handle) == timer_type)
            failed = run_plain(handle);
        else if (Py_TYPE(handle) == &ReaderState_Type)
            failed = reader_run(handle);
        else
            failed = run_other(handle);
        Py_DECREF(handle);
        if (failed)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* Returns 1 when asyncio's own turn is wanted, 0 when not, -1 with an exception. */
static int is_watched(PyObject *self)
{
    PyObject *debug = PyObject_GetAttr(self, str__debug);
    int watched = debug ? PyObject_IsTrue(debug) : -1;
    Py_XDECREF(debug);
    if (watched)
        return watched;
    PyObject *run = PyObject_GetAttr((PyObject *)handle_type, str__run);
    watched = run ? run != run_handle : -1;
    Py_XDECREF(run);
    return watched;
}

static int is_stopping(PyObject *self)
{
    PyObject *stopping = PyObject_GetAttr(self, str__stopping);
    int is = stopping ? PyObject_IsTrue(stopping) : -1;
    Py_XDECREF(stopping);
    return is;
}

/* Returns 0, or -1 with an exception. */
static int drop_cancelled_timers(PyObject *self)
{
    PyObject *count = PyObject_GetAttr(self, str__timer_cancelled_count);
    int any = count ? PyObject_IsTrue(count) : -1;
    Py_XDECREF(count);
    return any > 0 ? notify(self, str__drop_cancelled_timers) : any;
}

/* Returns 0, or -1 with an exception. */
static int take_timers(PyObject *self)
{
    PyObject *scheduled = PyObject_GetAttr(self, str__scheduled);
    Py_ssize_t count = scheduled ? PyObject_Size(scheduled) : -1;
    Py_XDECREF(scheduled);
    return count > 0 ? notify(self, str__take_timers) : (int)count;
}

static PyObject *ask_selector(PyObject *self, PyObject *ready)
{
    static PyObject *zero;
    if (!zero && !(zero = PyLong_FromLong(0)))
        return NULL;
    Py_ssize_t count = PyObject_Size(ready);
    int busy = count ? (count > 0 ? 1 : -1) : is_stopping(self);
    if (busy < 0)
        return NULL;
    if (!busy)
        return PyObject_CallMethodNoArgs(self, str__sleep);
    PyObject *selector = PyObject_GetAttr(self, str__selector);
    if (!selector)
        return NULL;
    PyObject *found = PyObject_CallMethodOneArg(selector, str_select, zero);
    Py_DECREF(selector);
    return found;
}

static PyObject *turn_run_once(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    int watched = is_watched(self);
    if (watched)
        return watched < 0 ? NULL : PyObject_CallMethodNoArgs(self, str__debug_turn);
    PyObject *ready = PyObject_GetAttr(self, str__ready);
    if (!ready)
        return NULL;
    PyObject *found = NULL, *result = NULL;
    if (drop_cancelled_timers(self) || !(found = ask_selector(self, ready)))
        goto done;
    int any = PyObject_IsTrue(found);
    if (any < 0 || (any && notify_with(self, str__process_events, found)))
        goto done;
    Py_CLEAR(found);
    if (!take_timers(self))
        result = run_ready(NULL, ready);
done:
    Py_XDECREF(found);
    Py_DECREF(ready);
    return result;
}

static PyMethodDef turn_methods[] = {
    {"_run_once", turn_run_once, METH_NOARGS, NULL},
    {NULL},
};

PyTypeObject TurnState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.turn.TurnState",
    .tp_basicsize = sizeof(PyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_methods = turn_methods,
};

static Py_ssize_t offset_of(PyObject *type, const char *name)
{
    PyObject *descriptor = PyObject_GetAttrString(type, name);
    if (!descriptor)
        return -1;
    Py_ssize_t offset = -1;
    if (Py_TYPE(descriptor) == &PyMemberDescr_Type)
        offset = ((PyMemberDescrObject *)descriptor)->d_member->offset;
    else
        PyErr_Format(PyExc_ImportError, "asyncio.Handle.%s is no slot", name);
    Py_DECREF(descriptor);
    return offset;
}

int prepare_turn(void)
{
    PyObject *module = PyImport_ImportModule("asyncio.events");
    if (!module)
        return -1;
    PyObject *type = PyObject_GetAttrString(module, "Handle");
    PyObject *timer = PyObject_GetAttrString(module, "TimerHandle");
    Py_DECREF(module);
    if (!type || !timer)
        return -1;
    handle_type = (PyTypeObject *)type;
    timer_type = (PyTypeObject *)timer;
    if ((handle_callback = offset_of(type, "_callback")) < 0 ||
        (handle_args = offset_of(type, "_args")) < 0 ||
        (handle_context = offset_of(type, "_context")) < 0 ||
        (handle_cancelled = offset_of(type, "_cancelled")) < 0)
        return -1;
    if (!(module = PyImport_ImportModule("vpoll_asyncio._asyncio")))
        return -1;
    report_exception = PyObject_GetAttrString(module, "report_exception");
    run_handle = PyObject_GetAttrString(module, "run_handle");
    Py_DECREF(module);
    return report_exception && run_handle ? 0 : -1;
}
