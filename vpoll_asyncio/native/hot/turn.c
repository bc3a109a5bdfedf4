/* TurnState and run_ready: what each turn of the asyncio loop does. */

#include "hot.h"

/* asyncio's bounds, as vpoll_asyncio/hot/turn.py has them. */
static double longest_sleep, few_cancelled;

/* asyncio.Future, and what asyncio.BaseEventLoop has for methods: with `up` those that come
 * after TurnState's own, else those that asyncio's call_soon calls. */
static PyObject *future_type;
static struct {
    PyObject **name, *original;
    int up;
} methods[] = {
    {&str_call_soon, NULL, 1},      {&str_create_future, NULL, 1},  {&str_get_debug, NULL, 1},
    {&str__call_soon, NULL, 0},     {&str__check_closed, NULL, 0},
};
enum { METHODS = sizeof methods / sizeof *methods };

/* collections.deque with two of its methods. */
static PyTypeObject *deque_type;
static PyCFunction deque_append, deque_popleft;

/* What asyncio's loop has for attributes, where each turn finds it. */
typedef struct {
    PyObject_HEAD
    PyObject *clock_resolution, *closed, *debug, *ready, *scheduled, *selector, *stopping,
        *timer_cancelled_count;
} TurnState;

/* Returns 0, or -1 with an exception. */
static int append(PyObject *queue, PyObject *handle)
{
    PyObject *result = Py_TYPE(queue) == deque_type
                           ? deque_append(queue, handle)
                           : PyObject_CallMethodOneArg(queue, str_append, handle);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static PyObject *pop(PyObject *queue)
{
    return Py_TYPE(queue) == deque_type ? deque_popleft(queue, NULL)
                                        : PyObject_CallMethodNoArgs(queue, str_popleft);
}

PyObject *run_ready(PyObject *module, PyObject *ready)
{
    Py_ssize_t count = PyObject_Size(ready);
    if (count < 0)
        return NULL;
    for (; count; count--) {
        PyObject *handle = pop(ready);
        if (!handle)
            return NULL;
        int failed = handle_run(handle);
        Py_DECREF(handle);
        if (failed)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* A new reference to an attribute of the loop's, or NULL with an exception. */
static PyObject *held(PyObject *attribute)
{
    if (!attribute)
        PyErr_SetString(PyExc_AttributeError, "the loop was not made by its constructor");
    return Py_XNewRef(attribute);
}

static int is_true(PyObject *attribute)
{
    if (attribute == Py_False || attribute == Py_True)
        return attribute == Py_True;
    PyObject *flag = held(attribute);
    int is = flag ? PyObject_IsTrue(flag) : -1;
    Py_XDECREF(flag);
    return is;
}

/* Returns 1 when asyncio's own turn is wanted, 0 when not, -1 with an exception. */
static int is_watched(TurnState *self)
{
    int watched = is_true(self->debug);
    if (watched)
        return watched;
    int plain = handles_are_asyncios();
    return plain < 0 ? -1 : !plain;
}

/* A new reference to the timer that is due first, NULL without or with an exception. */
static PyObject *first_timer(TurnState *self)
{
    PyObject *scheduled = held(self->scheduled);
    if (!scheduled)
        return NULL;
    PyObject *timer = NULL;
    if (PyList_CheckExact(scheduled))
        timer = PyList_GET_SIZE(scheduled) ? Py_NewRef(PyList_GET_ITEM(scheduled, 0)) : NULL;
    else if (PyObject_Size(scheduled) > 0)
        timer = PySequence_GetItem(scheduled, 0);
    Py_DECREF(scheduled);
    return timer;
}

/* -1 with an exception, which the caller looks for. */
static double number(PyObject *attribute)
{
    PyObject *value = held(attribute);
    double result = value ? PyFloat_AsDouble(value) : -1;
    Py_XDECREF(value);
    return result;
}

static double loop_time(TurnState *self)
{
    PyObject *now = PyObject_CallMethodNoArgs((PyObject *)self, str_time);
    double result = now ? PyFloat_AsDouble(now) : -1;
    Py_XDECREF(now);
    return result;
}

/* Returns 0, or -1 with an exception. */
static int drop_cancelled_timers(TurnState *self)
{
    double count = number(self->timer_cancelled_count);
    if (count <= 0)
        return PyErr_Occurred() ? -1 : 0;
    if (count <= few_cancelled) {
        PyObject *timer = first_timer(self);
        int cancelled = timer ? handle_is_cancelled(timer) : PyErr_Occurred() ? -1 : 0;
        Py_XDECREF(timer);
        if (cancelled <= 0)
            return cancelled;
    }
    return notify((PyObject *)self, str__drop_cancelled_timers);
}

/* Returns 0, or -1 with an exception. */
static int take_timers(TurnState *self)
{
    PyObject *timer = first_timer(self);
    if (!timer)
        return PyErr_Occurred() ? -1 : 0;
    double end = loop_time(self);
    if (!PyErr_Occurred())
        end += number(self->clock_resolution);
    double when = PyErr_Occurred() ? -1 : timer_due(timer);
    Py_DECREF(timer);
    if (PyErr_Occurred())
        return -1;
    if (when >= end)
        return 0;
    PyObject *limit = PyFloat_FromDouble(end);
    int failed = !limit || notify_with((PyObject *)self, str__take_timers, limit);
    Py_XDECREF(limit);
    return failed ? -1 : 0;
}

/* A new reference to the seconds that the selector may wait. */
static PyObject *patience(TurnState *self, PyObject *ready)
{
    static PyObject *zero;
    if (!zero && !(zero = PyLong_FromLong(0)))
        return NULL;
    Py_ssize_t count = PyObject_Size(ready);
    int busy = count ? (count > 0 ? 1 : -1) : is_true(self->stopping);
    if (busy)
        return busy < 0 ? NULL : Py_NewRef(zero);
    PyObject *timer = first_timer(self);
    if (!timer)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    double when = timer_due(timer);
    Py_DECREF(timer);
    double left = PyErr_Occurred() ? 0 : when - loop_time(self);
    if (PyErr_Occurred())
        return NULL;
    if (left <= 0)
        return Py_NewRef(zero);
    return PyFloat_FromDouble(left < longest_sleep ? left : longest_sleep);
}

static PyObject *ask_selector(TurnState *self, PyObject *ready)
{
    PyObject *selector = held(self->selector);
    PyObject *timeout = selector ? patience(self, ready) : NULL;
    PyObject *found = timeout ? PyObject_CallMethodOneArg(selector, str_select, timeout) : NULL;
    Py_XDECREF(timeout);
    Py_XDECREF(selector);
    return found;
}

static PyObject *turn_run_once(TurnState *self, PyObject *Py_UNUSED(ignored))
{
    int watched = is_watched(self);
    if (watched)
        return watched < 0 ? NULL : PyObject_CallMethodNoArgs((PyObject *)self, str__debug_turn);
    PyObject *ready = held(self->ready);
    if (!ready)
        return NULL;
    PyObject *found = NULL, *result = NULL;
    if (drop_cancelled_timers(self) || !(found = ask_selector(self, ready)))
        goto done;
    int any = PyObject_IsTrue(found);
    if (any < 0 || (any && notify_with((PyObject *)self, str__process_events, found)))
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
static int queue(TurnState *self, PyObject *handle, PyObject *remove, PyObject *fileobj)
{
    int cancelled = handle_is_cancelled(handle);
    if (cancelled)
        return cancelled < 0 ? -1 : notify_with((PyObject *)self, remove, fileobj);
    PyObject *ready = held(self->ready);
    int failed = ready ? append(ready, handle) : -1;
    Py_XDECREF(ready);
    return failed;
}

static int is_tuple(PyObject *object, Py_ssize_t size)
{
    return object && PyTuple_Check(object) && PyTuple_GET_SIZE(object) == size;
}

static int process_event(TurnState *self, PyObject *event)
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

static PyObject *turn_process_events(TurnState *self, PyObject *found)
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

/* A new reference to what the classes after TurnState have for a method, or NULL. */
static PyObject *inherited(PyObject *self, PyObject *name)
{
    PyObject *given[] = {(PyObject *)&TurnState_Type, self};
    PyObject *up = PyObject_Vectorcall((PyObject *)&PySuper_Type, given, 2, NULL);
    PyObject *method = up ? PyObject_GetAttr(up, name) : NULL;
    Py_XDECREF(up);
    return method;
}

static int is_original(PyObject *self, int index)
{
    PyObject *name = *methods[index].name;
    PyObject *now = methods[index].up ? inherited(self, name)
                                      : PyObject_GetAttr((PyObject *)Py_TYPE(self), name);
    if (!now)
        return -1;
    PyObject *function = PyMethod_Check(now) ? PyMethod_GET_FUNCTION(now) : now;
    int is = function == methods[index].original;
    Py_DECREF(now);
    return is;
}

/* Returns whether nobody has replaced what is done here instead of asyncio's methods, or -1. */
static int is_plain(PyObject *self)
{
    static PyTypeObject *known_type;
    static unsigned int known;
    PyTypeObject *type = Py_TYPE(self);
    /* A type's version changes with every assignment to it or to a base of it; 0 is none. */
    if (known && type == known_type && known == type->tp_version_tag)
        return 1;
    int is = 1;
    for (int index = 0; is > 0 && index < METHODS; index++)
        is = is_original(self, index);
    if (is > 0) {
        PyObject *debug = PyObject_GetAttr((PyObject *)type, str_get_debug);
        is = !debug ? -1 : Py_TYPE(debug) == &PyMethodDescr_Type;
        Py_XDECREF(debug);
    }
    known_type = type;
    known = is > 0 ? type->tp_version_tag : 0;
    return is;
}

/* Returns whether call_soon may go the short way, or -1 with an exception. */
static int may_queue(TurnState *self)
{
    if (self->debug != Py_False || self->closed != Py_False || !self->ready)
        return 0;
    int plain = is_plain((PyObject *)self);
    return plain > 0 ? handles_are_asyncios() : plain;
}

/* What would be called without TurnState; `given` are the positional arguments, then the values
 * of those in `names`. */
static PyObject *call_soon_slowly(PyObject *self, PyObject *const *given, Py_ssize_t count,
                                  PyObject *names)
{
    PyObject *method = inherited(self, str_call_soon);
    PyObject *handle = method ? PyObject_Vectorcall(method, given, (size_t)count, names) : NULL;
    Py_XDECREF(method);
    return handle;
}

static int is_context(PyObject *names)
{
    return PyTuple_GET_SIZE(names) == 1 &&
           !PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "context");
}

static PyObject *turn_call_soon(TurnState *self, PyObject *const *args, Py_ssize_t count,
                                PyObject *names)
{
    PyObject *context = Py_None;
    int plain = count > 0;
    if (plain && names && PyTuple_GET_SIZE(names)) {
        plain = is_context(names);
        context = args[count];
    }
    if (plain)
        plain = may_queue(self);
    if (plain < 0)
        return NULL;
    if (!plain)
        return call_soon_slowly((PyObject *)self, args, count, names);
    PyObject *handle = handle_make(args[0], args + 1, count - 1, (PyObject *)self, context);
    PyObject *ready = handle ? held(self->ready) : NULL;
    if (!ready || append(ready, handle))
        Py_CLEAR(handle);
    Py_XDECREF(ready);
    return handle;
}

static PyObject *turn_create_future(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    static PyObject *names;
    int plain = is_plain(self);
    if (plain <= 0) {
        PyObject *method = plain ? NULL : inherited(self, str_create_future);
        PyObject *future = method ? PyObject_CallNoArgs(method) : NULL;
        Py_XDECREF(method);
        return future;
    }
    if (!names && !(names = Py_BuildValue("(s)", "loop")))
        return NULL;
    return PyObject_Vectorcall(future_type, &self, 0, names);
}

static PyObject *turn_get_debug(TurnState *self, PyObject *Py_UNUSED(ignored))
{
    int plain = is_plain((PyObject *)self);
    if (plain > 0)
        return held(self->debug);
    PyObject *method = plain ? NULL : inherited((PyObject *)self, str_get_debug);
    PyObject *debug = method ? PyObject_CallNoArgs(method) : NULL;
    Py_XDECREF(method);
    return debug;
}

static int turn_traverse(TurnState *self, visitproc visit, void *arg)
{
    Py_VISIT(self->clock_resolution);
    Py_VISIT(self->closed);
    Py_VISIT(self->debug);
    Py_VISIT(self->ready);
    Py_VISIT(self->scheduled);
    Py_VISIT(self->selector);
    Py_VISIT(self->stopping);
    Py_VISIT(self->timer_cancelled_count);
    return 0;
}

static int turn_clear(TurnState *self)
{
    Py_CLEAR(self->clock_resolution);
    Py_CLEAR(self->closed);
    Py_CLEAR(self->debug);
    Py_CLEAR(self->ready);
    Py_CLEAR(self->scheduled);
    Py_CLEAR(self->selector);
    Py_CLEAR(self->stopping);
    Py_CLEAR(self->timer_cancelled_count);
    return 0;
}

static void turn_dealloc(TurnState *self)
{
    PyObject_GC_UnTrack(self);
    turn_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef turn_members[] = {
    {"_clock_resolution", T_OBJECT_EX, offsetof(TurnState, clock_resolution), 0, NULL},
    {"_closed", T_OBJECT_EX, offsetof(TurnState, closed), 0, NULL},
    {"_debug", T_OBJECT_EX, offsetof(TurnState, debug), 0, NULL},
    {"_ready", T_OBJECT_EX, offsetof(TurnState, ready), 0, NULL},
    {"_scheduled", T_OBJECT_EX, offsetof(TurnState, scheduled), 0, NULL},
    {"_selector", T_OBJECT_EX, offsetof(TurnState, selector), 0, NULL},
    {"_stopping", T_OBJECT_EX, offsetof(TurnState, stopping), 0, NULL},
    {"_timer_cancelled_count", T_OBJECT_EX, offsetof(TurnState, timer_cancelled_count), 0, NULL},
    {NULL},
};

static PyMethodDef turn_methods[] = {
    {"_run_once", (PyCFunction)turn_run_once, METH_NOARGS, NULL},
    {"_process_events", (PyCFunction)turn_process_events, METH_O, NULL},
    {"call_soon", (PyCFunction)(void (*)(void))turn_call_soon, METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("Have the loop call `callback(*args)` in its next turn; return its handle.")},
    {"create_future", turn_create_future, METH_NOARGS,
     PyDoc_STR("Return a new future of this loop's.")},
    {"get_debug", (PyCFunction)turn_get_debug, METH_NOARGS,
     PyDoc_STR("Return whether the loop is in debug mode.")},
    {NULL},
};

PyTypeObject TurnState_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vpoll_asyncio.hot.turn.TurnState",
    .tp_basicsize = sizeof(TurnState),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)turn_traverse,
    .tp_clear = (inquiry)turn_clear,
    .tp_dealloc = (destructor)turn_dealloc,
    .tp_members = turn_members,
    .tp_methods = turn_methods,
};

/* The function of a method without keyword arguments that a type in C has. */
static PyCFunction function_of(PyTypeObject *type, const char *name, int flags)
{
    PyObject *found = PyErr_Occurred() ? NULL : PyObject_GetAttrString((PyObject *)type, name);
    if (!found)
        return NULL;
    PyCFunction function = NULL;
    if (Py_TYPE(found) == &PyMethodDescr_Type &&
        ((PyMethodDescrObject *)found)->d_method->ml_flags == flags)
        function = ((PyMethodDescrObject *)found)->d_method->ml_meth;
    else
        PyErr_Format(PyExc_ImportError, "%s.%s is not what it was", type->tp_name, name);
    Py_DECREF(found);
    return function;
}

/* NULL with an exception; does nothing where there is one already. */
static PyObject *import(const char *module, const char *name)
{
    PyObject *found = PyErr_Occurred() ? NULL : PyImport_ImportModule(module);
    PyObject *result = found ? PyObject_GetAttrString(found, name) : NULL;
    Py_XDECREF(found);
    return result;
}

/* -1 with an exception; does nothing where there is one already. */
static double constant(const char *name)
{
    PyObject *value = import("vpoll_asyncio._asyncio", name);
    double result = value ? PyFloat_AsDouble(value) : -1;
    Py_XDECREF(value);
    return result;
}

int prepare_turn(void)
{
    deque_type = (PyTypeObject *)import("collections", "deque");
    if (!deque_type)
        return -1;
    deque_append = function_of(deque_type, "append", METH_O);
    deque_popleft = function_of(deque_type, "popleft", METH_NOARGS);
    PyObject *base = import("asyncio", "BaseEventLoop");
    for (int index = 0; base && index < METHODS; index++)
        if (!(methods[index].original = PyObject_GetAttr(base, *methods[index].name)))
            break;
    Py_XDECREF(base);
    future_type = import("asyncio", "Future");
    longest_sleep = constant("LONGEST_SLEEP");
    few_cancelled = constant("FEW_TIMERS") * constant("CANCELLED_SHARE");
    return PyErr_Occurred() ? -1 : 0;
}
