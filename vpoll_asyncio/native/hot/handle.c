/* asyncio.Handle: made, looked at and run without a call of its methods. */

#include "hot.h"

/* asyncio.Handle and the handle of timers, and where their slots are. */
static PyTypeObject *handle_type, *timer_type;
static Py_ssize_t at_args, at_callback, at_cancelled, at_context, at_loop, at_repr, at_source,
    at_when;

/* What asyncio.Handle had for __init__ and _run, and _asyncio.report_exception. */
static PyObject *init_handle, *run_handle, *report_exception;

static PyObject **slot(PyObject *handle, Py_ssize_t offset)
{
    return (PyObject **)((char *)handle + offset);
}

static int is_asyncios(PyObject *handle)
{
    return Py_TYPE(handle) == handle_type || Py_TYPE(handle) == timer_type;
}

static int is_still(PyObject *name, PyObject *original)
{
    PyObject *now = PyObject_GetAttr((PyObject *)handle_type, name);
    Py_XDECREF(now);
    return now ? now == original : -1;
}

int handles_are_asyncios(void)
{
    /* A type's version changes with every assignment, and 0 is none. */
    static unsigned int known;
    if (known && known == handle_type->tp_version_tag)
        return 1;
    int are = is_still(str___init__, init_handle);
    if (are > 0)
        are = is_still(str__run, run_handle);
    known = are > 0 ? handle_type->tp_version_tag : 0;
    return are;
}

PyObject *handle_make(PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *loop,
                      PyObject *context)
{
    PyObject *handle = handle_type->tp_alloc(handle_type, 0);
    if (!handle)
        return NULL;
    PyObject *arguments = PyTuple_New(count);
    for (Py_ssize_t index = 0; arguments && index < count; index++)
        PyTuple_SET_ITEM(arguments, index, Py_NewRef(args[index]));
    context = context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    *slot(handle, at_args) = arguments;
    *slot(handle, at_callback) = Py_NewRef(callback);
    *slot(handle, at_cancelled) = Py_NewRef(Py_False);
    *slot(handle, at_context) = context;
    *slot(handle, at_loop) = Py_NewRef(loop);
    *slot(handle, at_repr) = Py_NewRef(Py_None);
    *slot(handle, at_source) = Py_NewRef(Py_None);
    if (!arguments || !context)
        Py_CLEAR(handle);
    return handle;
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

int handle_is_cancelled(PyObject *handle)
{
    if (is_asyncios(handle)) {
        PyObject *cancelled = *slot(handle, at_cancelled);
        return cancelled && cancelled != Py_False;
    }
    PyObject *cancelled = PyObject_GetAttr(handle, str__cancelled);
    int is = cancelled ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    return is;
}

double timer_due(PyObject *timer)
{
    PyObject *when = Py_TYPE(timer) == timer_type ? *slot(timer, at_when) : NULL;
    if (when && PyFloat_CheckExact(when))
        return PyFloat_AS_DOUBLE(when);
    when = PyObject_GetAttr(timer, str__when);
    double result = when ? PyFloat_AsDouble(when) : -1;
    Py_XDECREF(when);
    return result;
}

int handle_run(PyObject *handle)
{
    if (Py_TYPE(handle) == &ReaderState_Type)
        return reader_run(handle);
    int cancelled = handle_is_cancelled(handle);
    if (cancelled)
        return cancelled < 0 ? -1 : 0;
    PyObject *context = is_asyncios(handle) ? *slot(handle, at_context) : NULL;
    PyObject *args = context ? *slot(handle, at_args) : NULL;
    if (!args || !PyContext_CheckExact(context) || !PyTuple_CheckExact(args))
        return notify(handle, str__run);
    return run_callback(handle, context, *slot(handle, at_callback), args);
}

/* -1 with an exception; does nothing where there is one already. */
static Py_ssize_t offset_of(PyTypeObject *type, const char *name)
{
    PyObject *found = PyErr_Occurred() ? NULL : PyObject_GetAttrString((PyObject *)type, name);
    if (!found)
        return -1;
    Py_ssize_t offset = -1;
    if (Py_TYPE(found) == &PyMemberDescr_Type)
        offset = ((PyMemberDescrObject *)found)->d_member->offset;
    else
        PyErr_Format(PyExc_ImportError, "%s.%s is no slot", type->tp_name, name);
    Py_DECREF(found);
    return offset;
}

int prepare_handle(void)
{
    PyObject *module = PyImport_ImportModule("asyncio.events");
    if (!module)
        return -1;
    handle_type = (PyTypeObject *)PyObject_GetAttrString(module, "Handle");
    timer_type = (PyTypeObject *)PyObject_GetAttrString(module, "TimerHandle");
    Py_DECREF(module);
    if (!handle_type || !timer_type)
        return -1;
    at_args = offset_of(handle_type, "_args");
    at_callback = offset_of(handle_type, "_callback");
    at_cancelled = offset_of(handle_type, "_cancelled");
    at_context = offset_of(handle_type, "_context");
    at_loop = offset_of(handle_type, "_loop");
    at_repr = offset_of(handle_type, "_repr");
    at_source = offset_of(handle_type, "_source_traceback");
    at_when = offset_of(timer_type, "_when");
    if (PyErr_Occurred() || !(module = PyImport_ImportModule("vpoll_asyncio._asyncio")))
        return -1;
    if ((report_exception = PyObject_GetAttrString(module, "report_exception")) &&
        (run_handle = PyObject_GetAttrString(module, "run_handle")))
        init_handle = PyObject_GetAttrString(module, "init_handle");
    Py_DECREF(module);
    return init_handle ? 0 : -1;
}
