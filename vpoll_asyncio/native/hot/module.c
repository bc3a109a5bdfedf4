/* The extension module, and what its parts share. */

#include "hot.h"

#define DEFINE(name) PyObject *str_##name;
NAMES(DEFINE)
#undef DEFINE

PyObject *bad_mask;

PyObject *take_exception(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
}

int is_exit(void)
{
    return PyErr_ExceptionMatches(PyExc_SystemExit) ||
           PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
}

static PyMethodDef functions[] = {
    {"uvloop_trigger", (PyCFunction)(void (*)(void))uvloop_trigger, METH_FASTCALL,
     PyDoc_STR("Return a function that has a loop of uvloop call something in a turn to come.")},
    {"run_ready", run_ready, METH_O, PyDoc_STR("Run the handles that are in the queue now.")},
    {"make_trigger", (PyCFunction)(void (*)(void))make_trigger, METH_FASTCALL,
     PyDoc_STR("Return a function that queues a handle and wakes the loop if it sleeps.")},
    {NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_vpoll_hot",
    .m_doc = PyDoc_STR("The classes of vpoll_asyncio.hot, compiled."),
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__vpoll_hot(void)
{
#define INTERN(name) \
    if (!str_##name && !(str_##name = PyUnicode_InternFromString(#name))) \
        return NULL;
    NAMES(INTERN)
#undef INTERN
    PyObject *events = PyImport_ImportModule("vpoll_asyncio.events");
    if (!events)
        return NULL;
    bad_mask = PyObject_GetAttrString(events, "bad_mask");
    Py_DECREF(events);
    if (!bad_mask || prepare_handle() || prepare_selector() || prepare_stream() ||
        prepare_turn() || prepare_uvloop())
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (!module)
        return NULL;
    PyTypeObject *types[] = {&FileState_Type, &DirectState_Type, &VPollState_Type, &RelayState_Type,
                             &WatchState_Type, &Lock_Type, &PipeState_Type, &StreamIO_Type,
                             &SelectorState_Type, &Trigger_Type, &TurnState_Type,
                             &ReaderState_Type};
    for (size_t index = 0; index < sizeof types / sizeof *types; index++) {
        if (PyModule_AddType(module, types[index])) {
            Py_DECREF(module);
            return NULL;
        }
    }
    return module;
}
