"""The guest's first file system: a cpio archive in the kernel's "newc" format.

Source of the format: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

__all__ = ["build"]


class Archive:
    """Entries of a cpio archive, owned by root, in the order in which they are added."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._entries = 0

    def add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        """Append one entry: `name` without a leading slash, `mode` with its file type."""
        self._entries += 1
        encoded = name.encode() + b"\0"
        fields = (
            self._entries,  # inode
            mode,
            0,  # uid
            0,  # gid
            2 if stat.S_ISDIR(mode) else 1,
            0,  # mtime
            len(data),
            0,  # the device that holds the file: major, minor
            0,
            *device,
            len(encoded),
            0,  # checksum, unused in this format
        )
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(header + encoded), _padded(data)]

    def finish(self) -> bytes:
        """Return the archive, closed by its trailer."""
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def build(busybox: Path, start: Path, modules: Iterable[Path]) -> bytes:
    """Return an archive whose init loads `modules` in their order and runs `start`."""
    archive = Archive()
    for folder in ("bin", "dev", "etc", "modules"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    # Called by this name busybox is init: it takes in orphans, as a shell does not.
    archive.add("init", stat.S_IFLNK | 0o777, b"/bin/busybox")
    archive.add("etc/inittab", stat.S_IFREG | 0o644, b"::once:/start\n")
    archive.add("start", stat.S_IFREG | 0o755, start.read_bytes())
    names = []
    for module in modules:
        names.append(module.name)
        archive.add(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
    archive.add("modules/order", stat.S_IFREG | 0o644, "".join(f"{n}\n" for n in names).encode())
    return archive.finish()
