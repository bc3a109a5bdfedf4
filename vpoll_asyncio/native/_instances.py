"""Further instances of a helper and of the library it is linked with.

A library with global state serves one user in a process, and loading it again gives the
same state.  Another instance takes a copy of its file under another name, and a copy of
the helper that asks the dynamic linker for that name: in its scope the helper comes
first, so that what the helper interposes is interposed in the copy too.

Names in ELF files are changed in place, so they keep their length.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from . import _cache
from ._errors import NativeError

# The numbers are those of elf(5).
_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_DT_NEEDED: Final = 1
_DT_STRTAB: Final = 5
_DT_SONAME: Final = 14


class _Elf:
    """The names in the dynamic section of a shared object."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        if data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5] not in (1, 2):
            raise ValueError("no ELF file")
        self._wide = data[4] == 2
        self._order = "<" if data[5] == 1 else ">"
        self._segments = list(self._read_segments())

    def _unpack(self, layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + layout, self._data, at)

    def _read_segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (type, offset, address, size in the file) of every segment."""
        start = self._unpack("Q" if self._wide else "I", 32 if self._wide else 28)[0]
        size, count = self._unpack("HH", 54 if self._wide else 42)
        for index in range(count):
            at = start + index * size
            if self._wide:
                kind, _, offset, address, _, length = self._unpack("IIQQQQ", at)
            else:
                kind, offset, address, _, length = self._unpack("IIIII", at)
            yield kind, offset, address, length

    def _entries(self) -> Iterator[tuple[int, int]]:
        layout = "QQ" if self._wide else "II"
        for kind, offset, _, length in self._segments:
            if kind == _PT_DYNAMIC:
                for at in range(offset, offset + length, struct.calcsize(layout)):
                    tag, value = self._unpack(layout, at)
                    yield tag, value

    def _strings(self) -> int:
        address = next(value for tag, value in self._entries() if tag == _DT_STRTAB)
        for kind, offset, start, length in self._segments:
            if kind == _PT_LOAD and start <= address < start + length:
                return address - start + offset
        raise ValueError("no string table")

    def name(self, wanted: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, name) of every entry of the type `wanted`."""
        strings = self._strings()
        for tag, value in self._entries():
            if tag == wanted:
                at = strings + value
                yield at, bytes(self._data[at : self._data.index(0, at)])


def _renamed(path: Path, tag: int, old: bytes, new: bytes) -> bytearray:
    """Return the contents of a shared object with a name in it changed."""
    data = bytearray(path.read_bytes())
    found = [at for at, name in _Elf(data).name(tag) if name == old]
    if len(found) != 1 or len(old) != len(new):
        raise ValueError(f"the name {old.decode()} is in it {len(found)} times, expected once")
    data[found[0] : found[0] + len(new)] = new
    return data


def _write(path: Path, data: bytearray) -> None:
    fd, made = tempfile.mkstemp(prefix=".copy-", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.replace(made, path)
    except BaseException:
        os.unlink(made)
        raise


def copy(helper: Path, library: Path, number: int) -> Path:
    """Return the path of instance `number` of `helper`, with its copy of `library` beside it.

    helper -- the compiled module, linked with ``-rpath $ORIGIN``

    Makes what is not there yet, in a folder beside `helper`.  Raises OSError: EIO when the
    files are not as the linker makes them, and whatever writing raises.
    """
    folder = helper.with_name(f"{helper.name.partition('.')[0]}.instances")
    made = folder / f"{number}-{helper.name}"
    try:
        soname = next((name for _, name in _Elf(bytearray(library.read_bytes())).name(_DT_SONAME)))
        new = f"n{number}".encode().ljust(len(soname), b"_")
        if len(new) != len(soname):
            raise ValueError(f"no room for the number {number} in {soname.decode()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        copied = folder / new.decode()
        if not _cache.is_ours(copied):
            _write(copied, _renamed(library, _DT_SONAME, soname, new))
        if not _cache.is_ours(made):
            _write(made, _renamed(helper, _DT_NEEDED, soname, new))
    except (ValueError, StopIteration, struct.error, IndexError) as exc:
        raise NativeError(
            errno.EIO, f"another instance of {library} cannot be made: {exc}"
        ) from exc
    return made
