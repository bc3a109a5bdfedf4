"""What ``slirp://`` needs beyond libvdeplug: checked options, and forwards that work.

The plugin takes a malformed ``tcpfwd`` for granted and crashes the process, says
nothing when a host port is in use, and lets one connection wait on a forwarded port
(libslirp's listener has a backlog of 1).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, get_args

from ..kernel import KernelSocket
from ..suggestions import did_you_mean

__all__ = [
    "Forward",
    "SlirpAddress",
    "find_forwards",
    "missing_forward",
    "parse",
    "take_ports",
]

Protocol = Literal["tcp", "udp"]

BACKLOG: Final = 4096

_ADDRESS4: Final = ("addr", "host", "dhcp", "vnameserver")
_ADDRESS6: Final = ("addr6", "host6", "vnameserver6")
_NUMBERS: Final = ("mtu", "mru")
_WITH_PREFIX: Final = ("addr", "host", "addr6", "host6")
_OTHER: Final = (
    "restricted",
    "v4",
    "v6",
    "hostname",
    "tftp_server_name",
    "tftp_path",
    "bootfile",
    "vdnssearch",
    "vdomainname",
    "disable_host_loopback",
    "tcpfwd",
    "udpfwd",
    "unixfwd",
    "cmdfwd",
    "verbose",
)
_OPTIONS: Final = frozenset((*_ADDRESS4, *_ADDRESS6, *_NUMBERS, *_OTHER))
_BIND_HINTS: Final = {
    errno.EADDRINUSE: "a program of the host has that port: choose another, or 0 for a free one",
    errno.EACCES: "ports below 1024 are for privileged users: choose a higher one",
    errno.EADDRNOTAVAIL: "that is no address of the host: choose 127.0.0.1, or none for all",
}
_FORWARD_FORM: Final = "[HOST_IP:]HOST_PORT:GUEST_IP:GUEST_PORT"

# libvdeslirp reads frames of the guest into a buffer of 9014 bytes.
_MTU_MAX: Final = 9000


class Forward(NamedTuple):
    """A port of the host whose traffic goes to a port of the stack."""

    protocol: Protocol
    host: str
    """IPv4 address of the host; ``0.0.0.0`` is all of them."""
    port: int
    guest: str
    """IPv4 address of the stack."""
    guest_port: int

    @property
    def socket_type(self) -> socket.SocketKind:
        """SOCK_STREAM or SOCK_DGRAM."""
        return socket.SOCK_STREAM if self.protocol == "tcp" else socket.SOCK_DGRAM

    def __str__(self) -> str:
        return f"{self.host}:{self.port}:{self.guest}:{self.guest_port}"


class SlirpAddress(NamedTuple):
    """A parsed ``slirp://`` locator."""

    options: dict[str, str | None]
    """Every option but the forwards; None for one without a value."""
    forwards: tuple[Forward, ...]

    @property
    def mtu(self) -> int:
        """Most bytes of IP packet in one frame."""
        return int(self.options.get("mtu") or 1500)

    @property
    def host_loopback(self) -> str | None:
        """The address by which hosts on the link reach the loopback of the machine, if they may."""
        options = self.options
        refuses = "disable_host_loopback" in options or "restricted" in options
        if refuses or ("v6" in options and "v4" not in options):
            return None
        return (options.get("addr") or options.get("host") or "10.0.2.2").partition("/")[0]

    def vnl(self) -> str:
        """Return the locator with every value quoted for libvdeplug."""
        parts = [k if v is None else f"{k}={_quote(v)}" for k, v in self.options.items()]
        for protocol in get_args(Protocol):
            items = ",".join(str(f) for f in self.forwards if f.protocol == protocol)
            if items:
                parts.append(f"{protocol}fwd={items}")
        return "slirp://" + "".join("/" + part for part in parts)


def parse(vnl: str) -> SlirpAddress:
    r"""Parse ``slirp://[/OPTION[=VALUE]]…``, the options of libvdeplug_slirp(1).

    Slashes inside of a value are quoted by ``\``, ``'…'`` or ``"…"``; an address's
    prefix length needs no quotes (``/addr=10.3.3.2/24``, as the manual has it).

    Raises ValueError for unknown options and malformed values, naming them.
    """
    first, *words = _words(vnl.removeprefix("slirp://"))
    if first:
        raise ValueError(
            f"{vnl!r}: options of slirp:// follow a slash (slirp:///{first}): {_known()}"
        )
    options: dict[str, str | None] = {}
    forwards: list[Forward] = []
    last = ""
    for word in words:
        if not word:
            continue
        name, equals, value = word.partition("=")
        if last in _WITH_PREFIX and re.fullmatch(r"\d{1,3}", word):
            options[last] = f"{options[last]}/{word}"
            last = ""
            continue
        if name not in _OPTIONS:
            meant = did_you_mean(name, _OPTIONS)
            raise ValueError(f"{vnl!r}: slirp:// has no option {name!r}: {_known()}{meant}")
        last = name
        if name == "tcpfwd":
            forwards += _forwards(vnl, "tcp", value)
        elif name == "udpfwd":
            forwards += _forwards(vnl, "udp", value)
        else:
            options[name] = value if equals else None
    for name, text in options.items():
        _check_option(vnl, name, text)
    return SlirpAddress(options, tuple(forwards))


def _known() -> str:
    return "expected some of " + ", ".join(sorted(_OPTIONS))


def _words(text: str) -> Iterator[str]:
    """Split at slashes as libvdeplug does: outside of quotes, which are removed."""
    word = ""
    quote = ""
    escaped = False
    for c in text:
        if escaped:
            word += c
            escaped = False
        elif quote:
            if c == quote:
                quote = ""
            else:
                word += c
        elif c == "\\":
            escaped = True
        elif c in "'\"":
            quote = c
        elif c == "/":
            yield word
            word = ""
        else:
            word += c
    yield word


def _quote(value: str) -> str:
    return re.sub(r"([/'\"\\])", r"\\\1", value)


def _check_option(vnl: str, name: str, value: str | None) -> None:
    try:
        if name in _NUMBERS:
            if not 68 <= int(value or "") <= _MTU_MAX:
                raise ValueError(f"expected 68 to {_MTU_MAX}")
        elif name in _ADDRESS4 or name in _ADDRESS6:
            if value is None:
                raise ValueError("expected an address")
            kind = ipaddress.IPv4Interface if name in _ADDRESS4 else ipaddress.IPv6Interface
            kind(value)
            if "/" in value and name not in _WITH_PREFIX:
                raise ValueError("expected an address without a prefix length")
        elif name in ("unixfwd", "cmdfwd"):
            # The plugin follows a null pointer where the port is missing.
            for item in (value or "").split(","):
                if not re.fullmatch(r"(\d+\.\d+\.\d+\.\d+:)?\d+:.+", item):
                    raise ValueError("expected [GUEST_IP:]GUEST_PORT:PATH_OR_COMMAND")
    except ValueError as error:
        raise ValueError(f"{vnl!r}: option {name}={value}: {error}") from None


def _forwards(vnl: str, protocol: Protocol, value: str) -> Iterator[Forward]:
    for item in value.split(","):
        try:
            fields = item.split(":")
            if len(fields) == 3:
                fields.insert(0, "")
            if len(fields) != 4:
                raise ValueError(f"{len(fields)} fields instead of 3 or 4")
            host, port, guest, guest_port = fields
            yield Forward(
                protocol,
                str(ipaddress.IPv4Address(host or "0.0.0.0")),
                _port(port, 0),
                str(ipaddress.IPv4Address(guest)),
                _port(guest_port, 1),
            )
        except ValueError as error:
            raise ValueError(
                f"{vnl!r}: {protocol}fwd={item}: {error} (the form is {_FORWARD_FORM})"
            ) from None


def _port(text: str, low: int) -> int:
    if not (text.isascii() and text.isdecimal() and low <= int(text) <= 65535):
        raise ValueError(f"port {text!r}: expected {low} to 65535")
    return int(text)


def take_ports(forwards: Sequence[Forward]) -> tuple[Forward, ...]:
    """Return `forwards` with a free port of the host in place of every port 0.

    Raises the OSError of bind(2) (EADDRINUSE, EACCES, EADDRNOTAVAIL …), naming the
    forward, where a port cannot be bound: the plugin itself would say nothing.
    """
    taken = []
    with contextlib.ExitStack() as probes:
        for forward in forwards:
            probe = probes.enter_context(KernelSocket(socket.AF_INET, forward.socket_type))
            if forward.protocol == "tcp":
                # libslirp's listener does so, and passes over TIME_WAIT.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((forward.host, forward.port))
                if forward.protocol == "tcp":
                    # With SO_REUSEADDR two sockets may bind, and only one listen.
                    probe.listen(1)
            except OSError as error:
                hint = _BIND_HINTS.get(error.errno or 0)
                text = f"slirp cannot forward {forward}: {error.strerror}"
                text += f" ({hint})" if hint else ""
                raise OSError(error.errno, text) from error
            taken.append(forward._replace(port=probe.getsockname()[1]))
    return tuple(taken)


def find_forwards(forwards: Sequence[Forward]) -> set[Forward]:
    """Return which of `forwards` this process has a socket for.

    A listener's backlog is raised to `BACKLOG` in passing: libslirp's is 1, and of many
    connections at once most would time out.
    """
    found = set()
    wanted = {(f.socket_type, f.host, f.port): f for f in forwards}
    for name in os.listdir("/proc/self/fd"):
        sock = _duplicate(int(name))
        if sock is None:
            continue
        with sock:
            if sock.family != socket.AF_INET:
                continue
            forward = wanted.get((socket.SocketKind(sock.type), *sock.getsockname()))
            if forward is None:
                continue
            if forward.protocol == "tcp":
                if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    continue
                sock.listen(BACKLOG)
            found.add(forward)
    return found


def _duplicate(fd: int) -> socket.socket | None:
    """Return a duplicate of `fd`, or None where it is no socket or closed by now."""
    try:
        copy = os.dup(fd)
    except OSError:
        return None
    if not stat.S_ISSOCK(os.fstat(copy).st_mode):
        os.close(copy)
        return None
    return KernelSocket(fileno=copy)


def missing_forward(forward: Forward) -> OSError:
    """Return the error for a forward that the plugin has passed over in silence."""
    return OSError(
        errno.EADDRINUSE,
        f"slirp did not forward {forward}: the host's port was taken in the meantime",
    )
