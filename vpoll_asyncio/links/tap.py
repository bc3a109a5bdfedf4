"""TAP and TUN: the host kernel at the other end of the link.

`TapLink` carries Ethernet frames, `TunLink` bare IP packets.  See the kernel's
Documentation/networking/tuntap.rst; packets have no header of the device's own
(IFF_NO_PI).  A device that does not exist is made, which needs CAP_NET_ADMIN in the
network namespace, and lives until the link is closed; an existing one (``ip tuntap
add … user NAME``) is attached to, which its owner may do without privileges.
Addresses and routes of the host's side are the caller's to set.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import ClassVar, Final, NoReturn

from ..kernel import KernelSocket
from .base import Medium
from .fd import FdLink
from .limits import check_mtu

__all__ = ["DEVICE", "DEVICE_HINTS", "TapLink", "TunLink"]

DEVICE: Final = "/dev/net/tun"

DEVICE_HINTS: Final = {
    errno.ENOENT: "the kernel's tun module is missing: modprobe tun",
    errno.ENODEV: "the kernel's tun module is missing: modprobe tun",
    errno.EACCES: f"no permission for {DEVICE}: its mode must let this user write (chmod 666)",
}
"""What helps, by the number with which `DEVICE` cannot be opened."""

# linux/if_tun.h and linux/sockios.h
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_SIOCGIFMTU: Final = 0x8921
_SIOCSIFMTU: Final = 0x8922

_IFNAMSIZ: Final = 16
# struct ifreq: the name and a union of 24 bytes.
_IFREQ_FLAGS: Final = struct.Struct("16sH22x")
_IFREQ_INT: Final = struct.Struct("16si20x")


class _TunTapLink(FdLink):
    """What TAP and TUN share: one device, one descriptor, one frame a read."""

    _MEDIUM: ClassVar[Medium]
    _FLAG: ClassVar[int]
    _KIND: ClassVar[str]

    def __init__(self, name: str = "", *, mtu: int | None = None) -> None:
        self._fd = -1
        _check_name(name)
        if mtu is not None:
            check_mtu(mtu)
        try:
            fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self._explain(error, name, f"cannot open {DEVICE}")
        try:
            request = _IFREQ_FLAGS.pack(name.encode(), self._FLAG | _IFF_NO_PI)
            try:
                answer = fcntl.ioctl(fd, _TUNSETIFF, request)
            except OSError as error:
                self._explain(error, name, f"cannot attach to the {self._KIND} interface")
            self.name = _IFREQ_FLAGS.unpack(answer)[0].rstrip(b"\0").decode()
            mtu = _interface_mtu(self.name, mtu)
            super().__init__(fd, medium=self._MEDIUM, mtu=mtu)
        except BaseException:
            os.close(fd)
            raise

    def _explain(self, error: OSError, name: str, what: str) -> NoReturn:
        """Raise `error` again, saying what was attempted and what would help."""
        hints = {
            **DEVICE_HINTS,
            errno.EPERM: "making an interface needs CAP_NET_ADMIN (root); one that root made "
            "with `ip tuntap add` for this user can be attached to",
            errno.EBUSY: "another program is attached to it",
            errno.EINVAL: f"an interface of that name exists and is no {self._KIND}",
        }
        hint = hints.get(error.errno or 0)
        named = f" {name!r}" if name else ""
        text = f"{what}{named}: {error.strerror}" + (f" ({hint})" if hint else "")
        raise OSError(error.errno, text) from error

    @property
    def ifindex(self) -> int:
        """Index of the interface, as in if_nameindex(3).  Raises OSError when it is gone."""
        return socket.if_nametoindex(self.name)

    def _where(self) -> str:
        return f"{self._KIND.lower()}://{self.name} fd={self._fd}"


class TapLink(_TunTapLink):
    """The far end of a TAP interface of the host: Ethernet frames.

    Parameters:
    name -- the interface; an empty one lets the kernel choose (``tap0`` …), see `name`
    mtu -- set the interface's mtu (needs CAP_NET_ADMIN); None takes it as it is

    While the interface is down, frames are dropped and counted.  When it is deleted,
    both directions raise OSError (EBADFD).

    Raises ValueError for what cannot be an interface's name, and OSError, with what
    would help: EPERM, ENOENT (no /dev/net/tun), EBUSY (another program is attached),
    EINVAL (the name belongs to an interface of another kind).
    """

    _MEDIUM = "ethernet"
    _FLAG = _IFF_TAP
    _KIND = "TAP"


class TunLink(_TunTapLink):
    """The far end of a TUN interface of the host: bare IP packets.

    Parameters, errors and behaviour are those of `TapLink`.
    """

    _MEDIUM = "ip"
    _FLAG = _IFF_TUN
    _KIND = "TUN"


def _check_name(name: str) -> None:
    # net/core/dev.c, dev_valid_name(); "%d" would be a template.
    if name and (
        name in (".", "..")
        or len(name.encode()) >= _IFNAMSIZ
        or any(c in "/:%\0" or c.isspace() for c in name)
    ):
        raise ValueError(
            f"interface name {name!r}: expected at most {_IFNAMSIZ - 1} bytes without "
            "spaces, '/', ':' and '%', or an empty name to let the kernel choose"
        )


def _interface_mtu(name: str, wanted: int | None) -> int:
    with KernelSocket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        if wanted is not None:
            try:
                fcntl.ioctl(control, _SIOCSIFMTU, _IFREQ_INT.pack(name.encode(), wanted))
            except OSError as error:
                text = f"cannot set the mtu of {name!r} to {wanted}: {error.strerror}"
                raise OSError(error.errno, text) from error
        answer = fcntl.ioctl(control, _SIOCGIFMTU, _IFREQ_INT.pack(name.encode(), 0))
    mtu: int = _IFREQ_INT.unpack(answer)[1]
    return mtu
