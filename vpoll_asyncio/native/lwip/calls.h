/* What the compiled calls from Python share: masks.c shows masks, calls.c has the rest.
 *
 * The core lock is taken without the interpreter's lock only, by the functions of api.h;
 * nothing of Python is touched meanwhile. */
#ifndef VP_CALLS_H
#define VP_CALLS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "shim.h"

enum { COLLECT = 256, SCRATCH = 65536 };

typedef struct {
    PyObject_HEAD
    PyObject *vpolls;           /* by handle */
    PyObject *early;            /* masks of sockets that Python does not know yet */
    PyThread_type_lock lock;    /* held while busy */
    unsigned long owner;
    char busy;                  /* masks are on their way to their vpolls */
    uint64_t handles[COLLECT];
    uint32_t masks[COLLECT];
    char scratch[SCRATCH];
} Masks;

extern PyTypeObject Masks_Type;

#define NAMES(X) \
    X(closed) X(do_recv) X(do_send) X(due) X(failure) X(file) X(mask) X(pending) X(run) \
    X(set_events) X(waiters)
#define DECLARE(name) extern PyObject *str_##name;
NAMES(DECLARE)
#undef DECLARE

#define FAST(function) (PyCFunction)(void (*)(void))(function)

int masks_enter(Masks *self);
void masks_leave(Masks *self);
int masks_turn(Masks *self, int readable);
void masks_tell(uint64_t handle);
PyObject *plain_file(PyObject *vpoll);

static inline int takes(Py_ssize_t count, Py_ssize_t wanted)
{
    if (count == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, count);
    return 0;
}

#endif
