/* A tee for compiled stacks: what they read from a link and write to it is appended to a
 * capture, pcap-savefile(5), without a detour through Python.
 *
 * The file is a regular one, so that a write neither waits nor raises SIGPIPE.  The first
 * failure ends the capture and is kept; the frames pass as before. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

typedef ssize_t (*recv_function)(void *context, void *buf, size_t len, int flags);
typedef ssize_t (*send_function)(void *context, const void *buf, size_t len, int flags);

struct tee {
    int fd;
    recv_function recv;
    send_function send;
    void *context;
    int file, error;
    uint32_t snaplen;
    size_t shortest, longest;
};

static void record(struct tee *tee, const void *data, size_t len)
{
    struct timespec now;
    unsigned char head[16];
    uint32_t fields[4];
    struct iovec parts[2];
    ssize_t written;

    if (tee->error || len < tee->shortest || len > tee->longest)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    fields[0] = (uint32_t)now.tv_sec;
    fields[1] = (uint32_t)now.tv_nsec;
    fields[2] = len < tee->snaplen ? (uint32_t)len : tee->snaplen;
    fields[3] = (uint32_t)len;
    for (int i = 0; i < 16; i++)
        head[i] = (unsigned char)(fields[i / 4] >> 8 * (i % 4));
    parts[0].iov_base = head;
    parts[0].iov_len = sizeof head;
    parts[1].iov_base = (void *)data;
    parts[1].iov_len = fields[2];
    do
        written = writev(tee->file, parts, 2);
    while (written < 0 && errno == EINTR);
    if (written < 0)
        tee->error = errno;
    else if ((size_t)written < sizeof head + fields[2])
        tee->error = ENOSPC;
}

static ssize_t tee_recv(void *context, void *buf, size_t len, int flags)
{
    struct tee *tee = context;
    ssize_t n = tee->recv ? tee->recv(tee->context, buf, len, flags) : read(tee->fd, buf, len);
    int error = errno;

    /* vde_recv(3): 1 is news of the plugin's own. */
    if (n > 0 && !(n == 1 && tee->recv))
        record(tee, buf, (size_t)n);
    errno = error;
    return n;
}

static ssize_t tee_send(void *context, const void *buf, size_t len, int flags)
{
    struct tee *tee = context;
    ssize_t n = tee->send ? tee->send(tee->context, buf, len, flags) : write(tee->fd, buf, len);
    int error = errno;

    if (n >= 0)
        record(tee, buf, len);
    errno = error;
    return n;
}

static PyObject *tee_new(PyObject *module, PyObject *args)
{
    unsigned long long recv, send, context;
    unsigned long shortest, longest;
    unsigned int snaplen;
    int fd, file;
    struct tee *tee;

    (void)module;
    if (!PyArg_ParseTuple(args, "iKKKiIkk", &fd, &recv, &send, &context, &file, &snaplen,
                          &shortest, &longest))
        return NULL;
    tee = calloc(1, sizeof *tee);
    if (tee == NULL)
        return PyErr_NoMemory();
    tee->fd = fd;
    tee->recv = (recv_function)(uintptr_t)recv;
    tee->send = (send_function)(uintptr_t)send;
    tee->context = (void *)(uintptr_t)context;
    tee->file = file;
    tee->snaplen = snaplen;
    tee->shortest = shortest;
    tee->longest = longest;
    return PyLong_FromVoidPtr(tee);
}

static PyObject *tee_error(PyObject *module, PyObject *address)
{
    struct tee *tee = PyLong_AsVoidPtr(address);

    (void)module;
    if (tee == NULL && PyErr_Occurred())
        return NULL;
    return PyLong_FromLong(tee->error);
}

static PyObject *tee_free(PyObject *module, PyObject *address)
{
    struct tee *tee = PyLong_AsVoidPtr(address);

    (void)module;
    if (tee == NULL && PyErr_Occurred())
        return NULL;
    free(tee);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"new", tee_new, METH_VARARGS,
     "new(fd, recv, send, context, file, snaplen, shortest, longest) -> address of a tee"},
    {"error", tee_error, METH_O, "error(address) -> the errno that ended the capture, or 0"},
    {"free", tee_free, METH_O, "free(address) -> None"},
    {NULL, NULL, 0, NULL},
};

static int exec(PyObject *module)
{
    if (PyModule_AddObject(module, "recv", PyLong_FromVoidPtr((void *)tee_recv)) < 0)
        return -1;
    return PyModule_AddObject(module, "send", PyLong_FromVoidPtr((void *)tee_send));
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)exec}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_vpoll_tee", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__vpoll_tee(void)
{
    return PyModuleDef_Init(&definition);
}
