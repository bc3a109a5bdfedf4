/* TurnState and run_ready: what each turn of the asyncio loop does. */

#include "hot.h"

/* asyncio.Handle, where its slots are, and the handle of timers, which has them too. */
static PyTypeObject *handle_type, *timer_type;
static Py_ssize_t handle_callback, handle_args, handle_context, handle_cancelled;

/* asyncio's bounds, as vpoll_asyncio/hot/turn.py has them. */
static double longest_sleep, few_cancelled;

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

/* Returns whether a handle is cancelled, or -1 with an exception. */
static int is_cancelled(PyObject *handle)
{
    if (Py_TYPE(handle) == handle_type || Py_TYPE(handle) == timer_type) {
        PyObject *cancelled = slot(handle, handle_cancelled);
        return cancelled && cancelled != Py_False;
    }
    PyObject *cancelled = PyObject_GetAttr(handle, str__cancelled);
    int is = cancelled ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    return is;
}

static int run_other(PyObject *handle)
{
    int cancelled = is_cancelled(handle);
    return cancelled ? (cancelled < 0 ? -1 : 0) : notify(handle, str__run);
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

/* A new reference to the timer that is due first, NULL without or with an exception. */
static PyObject *first_timer(PyObject *self)
{
    PyObject *scheduled = PyObject_GetAttr(self, str__scheduled);
    Py_ssize_t count = scheduled ? PyObject_Size(scheduled) : -1;
    PyObject *timer = count > 0 ? PySequence_GetItem(scheduled, 0) : NULL;
    Py_XDECREF(scheduled);
    return timer;
}

/* The float that `owner` has as `name`; -1 with an exception, which the caller looks for. */
static double number(PyObject *owner, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(owner, name);
    double result = value ? PyFloat_AsDouble(value) : -1;
    Py_XDECREF(value);
    return result;
}

static double loop_time(PyObject *self)
{
    PyObject *now = PyObject_CallMethodNoArgs(self, str_time);
    double result = now ? PyFloat_AsDouble(now) : -1;
    Py_XDECREF(now);
    return result;
}

/* Returns 0, or -1 with an exception. */
static int drop_cancelled_timers(PyObject *self)
{
    double count = number(self, str__timer_cancelled_count);
    if (count <= 0)
        return PyErr_Occurred() ? -1 : 0;
    if (count <= few_cancelled) {
        PyObject *timer = first_timer(self);
        int cancelled = timer ? is_cancelled(timer) : PyErr_Occurred() ? -1 : 0;
        Py_XDECREF(timer);
        if (cancelled <= 0)
            return cancelled;
    }
    return notify(self, str__drop_cancelled_timers);
}

/* Returns 0, or -1 with an exception. */
static int take_timers(PyObject *self)
{
    PyObject *timer = first_timer(self);
    if (!timer)
        return PyErr_Occurred() ? -1 : 0;
    double end = loop_time(self);
    if (!PyErr_Occurred())
        end += number(self, str__clock_resolution);
    double when = PyErr_Occurred() ? -1 : number(timer, str__when);
    Py_DECREF(timer);
    if (PyErr_Occurred())
        return -1;
    if (when >= end)
        return 0;
    PyObject *limit = PyFloat_FromDouble(end);
    int failed = !limit || notify_with(self, str__take_timers, limit);
    Py_XDECREF(limit);
    return failed ? -1 : 0;
}

/* A new reference to the seconds that the selector may wait. */
static PyObject *patience(PyObject *self, PyObject *ready)
{
    static PyObject *zero;
    if (!zero && !(zero = PyLong_FromLong(0)))
        return NULL;
    Py_ssize_t count = PyObject_Size(ready);
    int busy = count ? (count > 0 ? 1 : -1) : is_stopping(self);
    if (busy)
        return busy < 0 ? NULL : Py_NewRef(zero);
    PyObject *timer = first_timer(self);
    if (!timer)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    double when = number(timer, str__when);
    Py_DECREF(timer);
    double left = PyErr_Occurred() ? 0 : when - loop_time(self);
    if (PyErr_Occurred())
        return NULL;
    if (left <= 0)
        return Py_NewRef(zero);
    return PyFloat_FromDouble(left < longest_sleep ? left : longest_sleep);
}

static PyObject *ask_selector(PyObject *self, PyObject *ready)
{
    PyObject *selector = PyObject_GetAttr(self, str__selector);
    PyObject *timeout = selector ? patience(self, ready) : NULL;
    PyObject *found = timeout ? PyObject_CallMethodOneArg(selector, str_select, timeout) : NULL;
    Py_XDECREF(timeout);
    Py_XDECREF(selector);
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

/* Queues a handle, or has `remove` take away what was cancelled.  Returns 0, or -1 with an
 * exception. */
static int queue(PyObject *self, PyObject *handle, PyObject *remove, PyObject *fileobj)
{
    int cancelled = is_cancelled(handle);
    if (cancelled)
        return cancelled < 0 ? -1 : notify_with(self, remove, fileobj);
    PyObject *ready = PyObject_GetAttr(self, str__ready);
    int failed = !ready || notify_with(ready, str_append, handle);
    Py_XDECREF(ready);
    return failed ? -1 : 0;
}

static int is_tuple(PyObject *object, Py_ssize_t size)
{
    return object && PyTuple_Check(object) && PyTuple_GET_SIZE(object) == size;
}

static int process_event(PyObject *self, PyObject *event)
{
    PyObject *key = is_tuple(event, 2) ? PyTuple_GET_ITEM(event, 0) : NULL;
    PyObject *data = is_tuple(key, 4) ? PyTuple_GET_ITEM(key, 3) : NULL;
    if (!is_tuple(data, 2)) {
        PyErr_Format(PyExc_ValueError, "%R is none of asyncio's (key, events)", event);
        return -1;
    }
    long seen = PyLong_AsLong(PyTuple_GET_ITEM(event, 1));
    if (seen == -1 && PyErr_Occurred())
        return -1;
    PyObject *fileobj = PyTuple_GET_ITEM(key, 0);
    PyObject *reader = PyTuple_GET_ITEM(data, 0), *writer = PyTuple_GET_ITEM(data, 1);
    int failed = 0;
    if (seen & SELECT_READ && reader != Py_None)
        failed = queue(self, reader, str__remove_reader, fileobj);
    if (!failed && seen & SELECT_WRITE && writer != Py_None)
        failed = queue(self, writer, str__remove_writer, fileobj);
    return failed;
}

static PyObject *turn_process_events(PyObject *self, PyObject *found)
{
    PyObject *events = PySequence_Fast(found, "expected a list of (key, events)");
    if (!events)
        return NULL;
    int failed = 0;
    for (Py_ssize_t index = 0; !failed && index < PySequence_Fast_GET_SIZE(events); index++) {
        PyObject *event = Py_NewRef(PySequence_Fast_GET_ITEM(events, index));
        failed = process_event(self, event);
        Py_DECREF(event);
    }
    Py_DECREF(events);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef turn_methods[] = {
    {"_run_once", turn_run_once, METH_NOARGS, NULL},
    {"_process_events", turn_process_events, METH_O, NULL},
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

/* -1 with an exception; does nothing where there is one already. */
static double constant(PyObject *module, const char *name)
{
    PyObject *value = PyErr_Occurred() ? NULL : PyObject_GetAttrString(module, name);
    double result = value ? PyFloat_AsDouble(value) : -1;
    Py_XDECREF(value);
    return result;
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
    longest_sleep = constant(module, "LONGEST_SLEEP");
    few_cancelled = constant(module, "FEW_TIMERS") * constant(module, "CANCELLED_SHARE");
    if (!PyErr_Occurred() &&
        (report_exception = PyObject_GetAttrString(module, "report_exception")))
        run_handle = PyObject_GetAttrString(module, "run_handle");
    Py_DECREF(module);
    return run_handle ? 0 : -1;
}
