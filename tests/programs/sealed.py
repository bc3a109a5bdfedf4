"""``sealed.py COMMAND…``: a command that the kernel kills if it makes an internet socket.

A seccomp(2) filter has socket(2) with AF_INET, AF_INET6 or AF_PACKET end the whole process
by SIGSYS, where nothing can catch it; other system calls are as ever.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys

_SOCKET_CALL = {"x86_64": 41, "aarch64": 198}[platform.machine()]
_REFUSED = (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET)

# <linux/filter.h>, <linux/seccomp.h>, <linux/prctl.h>.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_KILL_PROCESS, _ALLOW = 0x80000000, 0x7FFF0000
_NUMBER, _FIRST_ARGUMENT = 0, 16
_SET_SECCOMP, _MODE_FILTER, _NO_NEW_PRIVS = 22, 2, 38


def _program() -> bytes:
    last = len(_REFUSED)
    steps = [
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 0, last + 1, _SOCKET_CALL),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
    ]
    for at, family in enumerate(_REFUSED, 1):
        steps.append((_JUMP_IF_EQUAL, last - at + 1, 0, int(family)))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL_PROCESS)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_char_p)]


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    program = _program()
    rules = _Filter(len(program) // 8, program)
    for arguments in ((_NO_NEW_PRIVS, 1, 0), (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(rules))):
        if libc.prctl(*arguments, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
