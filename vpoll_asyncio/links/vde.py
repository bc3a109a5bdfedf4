"""Links of Virtual Distributed Ethernet: everything that libvdeplug has a plugin for."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import select
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ..ending import unclosed
from ..kernel import KernelSocket
from . import hangup, libvdeplug, slirp, slirplog
from .base import Link, NativePort
from .limits import ETHERNET_HEADER, FRAME_LOST, check_mtu, closed_error, longest_frame
from .nesting import parse_nested
from .patience import OutOfTimeError, in_time

__all__ = ["VdeLink", "scheme_of"]

_BATCH: Final = 64
_MTU_MAX: Final = 9216
_PORT_TRIES: Final = 8
_PATIENCE: Final = 15.0

# The peer of a point-to-point plugin is not there (yet, or any more).
_PEER_AWAY: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EDESTADDRREQ,
        errno.ENOENT,
        errno.ENOTCONN,
        errno.EPIPE,
    }
)

# Where the plugin's own errno says too little.
_FORMS: Final = {
    "udp": "the form is udp://[HOST:]PORT->HOST:PORT",
    "vde": "is vde_switch running with that path? start it with vde_switch -s PATH",
    "switch": "the folder that it makes must not exist, its parent must",
    "hub": "the folder that it makes must not exist, its parent must",
    "vlan": "the form is vlan://NUMBER{LOCATOR}",
    "agno": "the form is agno:///path/of/a/keyfile{LOCATOR}",
    "ptp": "the form is ptp:///path/of/a/socket, which two ends may open",
}


class VdeLink(Link):
    """A plug in a VDE network, through libvdeplug.

    Parameters:
    vnl -- a Virtual Network Locator: ``slirp://``, ``vde:///run/switch`` (or the path
        alone), ``switch:///path``, ``hub:///path``, ``ptp:///path``,
        ``udp://PORT->HOST:PORT``, ``vxvde://``, ``cmd://COMMAND`` …: the manual pages
        libvdeplug_slirp(1) … have the options
    mtu -- most bytes of IP packet in one frame; None: what the locator says
        (``slirp:///mtu=9000``), else 1500
    timeout -- seconds that a switch may take to answer, or None

    A peer that is away is an unplugged cable: frames are dropped and counted.  When a
    vde_switch, slirp or a command ends, the pollable becomes readable and both directions
    raise ConnectionResetError; a thread watches the control connection for that, while
    there is one.

    The plugins ``switch``, ``hub``, ``multi``, ``bonding``, ``vxvde``, ``cmd`` and
    ``vdesl`` make blocking calls and say nothing of full queues: they take every frame, and
    drop without a count what a slow port does not read, or (``cmd``, ``vdesl``) wait until
    the command or the line has taken it.  A ``switch://`` or
    ``hub://`` answers newcomers in `recv_batch`, so opening ``vde://`` on it waits
    until another thread, or its event loop, calls that.  Waiting for a switch can be
    interrupted (Ctrl-C), and ends after `timeout`.

    `close` ends slirp's thread, and waits until a command has ended, which sees the end
    of its input.  After fork(2) the link stays the parent's: a child may only close it.

    Raises ValueError for a malformed locator; OSError: ELIBACC without libvdeplug,
    EPROTONOSUPPORT without the plugin (both name the Debian package), EADDRINUSE
    for a host port that slirp cannot forward, ETIMEDOUT for a switch that does not answer,
    and what the plugin answers.
    """

    def __init__(
        self, vnl: str, *, mtu: int | None = None, timeout: float | None = _PATIENCE
    ) -> None:
        self._connection = 0
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout {timeout!r}: expected seconds, more than 0, or None")
        self.vnl = vnl
        self.scheme = scheme_of(vnl)
        self.forwards: tuple[slirp.Forward, ...] = ()
        """Ports that slirp forwards, port 0 replaced by the one that the host chose."""
        address = slirp.parse(vnl) if self.scheme == "slirp" else None
        self.host_loopback = address.host_loopback if address else None
        if self.scheme == "seqpacket":
            _check_seqpacket(vnl)
        self.mtu = check_mtu(
            (address.mtu if address else 1500) if mtu is None else mtu, high=_MTU_MAX
        )
        self._longest = longest_frame("ethernet", self.mtu)
        self._library = libvdeplug.load()
        self._buffer = ctypes.create_string_buffer(libvdeplug.BUFFER_SIZE)
        if address:
            connection = self._open_slirp(address)
        elif _asks_a_switch(vnl):
            connection = self._open_in_time(vnl, timeout)
        else:
            connection = self._open(vnl)
        self._pid = os.getpid()
        self._error: OSError | None = None
        self._fd: int = self._library.datafd(connection)
        self._control: int = self._library.ctlfd(connection)
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError as error:
            self._library.close(connection)
            raise OSError(error.errno, f"cannot open {vnl}: its descriptor is not open") from error
        # Its plugin puts frames together itself, and must not be left half-way through one.
        is_tty = stat.S_ISCHR(mode) and os.isatty(self._fd)
        # An epoll descriptor or a pipe: the plugin's calls block, whatever its flags are.
        self._blocking = is_tty or not (stat.S_ISSOCK(mode) or stat.S_ISCHR(mode))
        self._is_stream = is_tty or stat.S_ISFIFO(mode)
        self._ends_with_empty = not stat.S_ISSOCK(mode) or _is_seqpacket(self._fd)
        if self._blocking:
            self._ready = select.poll()
            self._ready.register(self._fd, select.POLLIN)
        else:
            os.set_blocking(self._fd, False)
        self._hangup: select.poll | None = None
        if self._control >= 0:
            self._hangup = select.poll()
            self._hangup.register(self._control, select.POLLRDHUP)
        self._watched = self._control >= 0 and stat.S_ISSOCK(mode)
        if self._watched:
            hangup.watch(self._control, self._fd)
        self._connection = connection

    def _open(self, vnl: str) -> int:
        try:
            # A command must get the process's own mask; plugins that nest have slirp inside.
            return self._library.open(vnl, block_signals="slirp://" in vnl)
        except OSError as error:
            missing = _missing_plugin(vnl)
            if missing is not None:
                raise _no_plugin(missing) from error
            hint = _FORMS.get(self.scheme)
            text = f"cannot open {vnl}: {error.strerror}" + (f" ({hint})" if hint else "")
            raise OSError(error.errno, text) from error

    def _open_in_time(self, vnl: str, timeout: float | None) -> int:
        try:
            return in_time(lambda: self._open(vnl), self._library.close, timeout)
        except OutOfTimeError:
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"cannot open {vnl}: the switch has not answered for {timeout:g} s: is it stopped "
                "(state T in ps: kill -CONT goes on with it; vde_switch -d keeps it off the "
                "terminal)?  A switch:// or hub:// answers while its stack or a thread reads it",
            ) from None

    def _open_slirp(self, address: slirp.SlirpAddress) -> int:
        slirplog.capture()
        tries = _PORT_TRIES if any(f.port == 0 for f in address.forwards) else 1
        while True:
            forwards = slirp.take_ports(address.forwards)
            connection = self._open(address._replace(forwards=forwards).vnl())
            try:
                missing = set(forwards) - slirp.find_forwards(forwards)
            except BaseException:
                self._library.close(connection)
                raise
            if not missing:
                self.forwards = forwards
                return connection
            self._library.close(connection)
            tries -= 1
            if not tries:
                raise slirp.missing_forward(missing.pop())

    @property
    def pollable(self) -> int:
        if not self._connection:
            raise closed_error(self)
        return self._fd

    def recv_batch(self, limit: int = _BATCH) -> list[bytes]:
        self._check()
        frames: list[bytes] = []
        recv, connection, buffer = self._library.recv, self._connection, self._buffer
        for _ in range(limit):
            if self._blocking:
                ready = self._ready.poll(0)
                if not ready:
                    break
                if not ready[0][1] & select.POLLIN:
                    # cmd's plugin would leave four descriptors behind on reading the end.
                    self._error = self._gone(errno.ECONNRESET)
                    break
            length = recv(connection, buffer, libvdeplug.BUFFER_SIZE, 0)
            if length <= 1 and self._blocking and ready[0][1] & select.POLLHUP:
                # A line's plugin makes news of the end.
                self._error = self._gone(errno.ECONNRESET)
                break
            if ETHERNET_HEADER <= length <= self._longest:
                frames.append(ctypes.string_at(buffer, length))
            elif length > 1:
                self.dropped += 1
            elif length < 0:
                number = ctypes.get_errno()
                if number in (errno.EAGAIN, errno.EINTR):
                    break
                if self._is_fatal(number):
                    self._error = self._gone(number)
                    break
            elif length == 0 and self._ends_with_empty:
                self._error = self._gone(errno.ECONNRESET)
                break
            # vde_recv(3): 1 is news of the plugin's own and no frame.
        if not frames:
            # A switch's end shows nowhere else: its datagrams only stop.
            if self._error is None and self._control_is_gone():
                self._error = self._gone(errno.ECONNRESET)
            self._check()
        return frames

    def send_batch(self, frames: Sequence[bytes]) -> int:
        self._check()
        send, connection, longest = self._library.send, self._connection, self._longest
        taken = 0
        for frame in frames:
            length = len(frame)
            if not ETHERNET_HEADER <= length <= longest:
                # Never less than a header: libvdeslirp takes 8 bytes for a pointer.
                self.dropped += 1
            elif send(connection, frame, length, 0) < 0:
                number = ctypes.get_errno()
                if number in (errno.EAGAIN, errno.EINTR) and not self._blocking:
                    break
                if number not in FRAME_LOST and self._is_fatal(number):
                    self._error = self._gone(number)
                    raise self._error
                self.dropped += 1
            taken += 1
        return taken

    def _check(self) -> None:
        if not self._connection:
            raise closed_error(self)
        if self._error is not None:
            raise self._error

    def _is_fatal(self, number: int) -> bool:
        if number == errno.EBADF:
            return True
        if self._blocking:
            # One port of a hub is gone, and its error comes out as the hub's.
            return False
        if number not in _PEER_AWAY:
            return True
        return self._ends_with_empty or self._control_is_gone()

    def _control_is_gone(self) -> bool:
        return self._hangup is not None and bool(self._hangup.poll(0))

    def _gone(self, number: int) -> OSError:
        if number in _PEER_AWAY:
            return ConnectionResetError(errno.ECONNRESET, f"the other end of {self!r} has gone")
        return OSError(number, f"{os.strerror(number)} on {self!r}")

    @property
    def native(self) -> NativePort | None:
        # Of a pipe or a line only `recv_batch` notices the end without the plugin's help.
        if not self._connection or self._is_stream:
            return None
        return NativePort(
            self._fd,
            self._library.recv_address,
            self._library.send_address,
            self._connection,
            1 if self._blocking else _BATCH,
        )

    def close(self) -> None:
        connection, self._connection = self._connection, 0
        if not connection:
            return
        if os.getpid() != self._pid:
            # The plugin's threads are the parent's, and so are its sockets' names.
            for fd in {self._fd, self._control} - {-1}:
                os.close(fd)
            return
        if self._watched:
            hangup.forget(self._control)
        with _epoll_given_back(self._fd):
            self._library.close(connection)

    @property
    def closed(self) -> bool:
        return not self._connection

    def __repr__(self) -> str:
        where = f"fd={self._fd}" if self._connection else "closed"
        ports = f" forwards={','.join(map(str, self.forwards))}" if self.forwards else ""
        return f"<VdeLink {self.vnl} {where}{ports} mtu={self.mtu} dropped={self.dropped}>"

    def __del__(self, _unclosed: Callable[..., None] = unclosed) -> None:
        if getattr(self, "_connection", 0):
            # Its plugin may have made files.
            _unclosed(self, self.close, at_end=self.close)


def scheme_of(vnl: str) -> str:
    """Return the scheme of a Virtual Network Locator; a path alone is a ``vde`` switch.

    Raises ValueError for what is no locator.
    """
    scheme, separator, _ = vnl.partition("://")
    if "\0" in vnl or not vnl:
        raise ValueError(f"{vnl!r} is no Virtual Network Locator: expected SCHEME://ADDRESS")
    if not separator:
        if "/" in vnl:
            return "vde"
        raise ValueError(
            f"{vnl!r} is no Virtual Network Locator: expected SCHEME://ADDRESS, or the path "
            f"of a vde_switch (./{vnl})"
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", scheme):
        raise ValueError(f"{vnl!r}: {scheme!r} cannot be a scheme")
    return scheme


def _asks_a_switch(vnl: str) -> bool:
    """Return whether a vde_switch, or what is like one, is asked for a port."""
    try:
        while scheme_of(vnl) != "cmd" and (nested := parse_nested(vnl)) is not None:
            vnl = nested.inner
        return scheme_of(vnl) == "vde"
    except ValueError:
        # Only the plugin knows what it means.
        return False


def _check_seqpacket(vnl: str) -> None:
    # The plugin makes 0 of what is no number, and closes that descriptor.
    if not re.fullmatch(r"seqpacket://\d+", vnl):
        raise ValueError(f"{vnl!r}: expected seqpacket://N, the number of an open descriptor")


def _is_seqpacket(fd: int) -> bool:
    with KernelSocket(fileno=os.dup(fd)) as sock:
        return sock.type == socket.SOCK_SEQPACKET


def _missing_plugin(vnl: str) -> str | None:
    """Return the scheme that has no plugin, the outermost one of a locator that nests."""
    while True:
        try:
            scheme, nested = scheme_of(vnl), parse_nested(vnl)
        except ValueError:
            # Braces of a command's own, say.
            return None
        if libvdeplug.plugin_path(scheme) is None:
            return scheme
        if nested is None:
            return None
        vnl = nested.inner


def _no_plugin(scheme: str) -> OSError:
    package = libvdeplug.PLUGIN_PACKAGES.get(scheme)
    advice = f"install the Debian package {package}" if package else "set VDEPLUGIN_PATH"
    return OSError(errno.EPROTONOSUPPORT, f"libvdeplug has no plugin for {scheme}://: {advice}")


@contextlib.contextmanager
def _epoll_given_back(fd: int) -> Iterator[None]:
    """Close epoll descriptor `fd` where the body has left it open (vxvde's plugin does).

    A member of our own in the set tells it from a newcomer with the same number.
    """
    try:
        marker = os.eventfd(0, os.EFD_CLOEXEC)
    except OSError:
        yield
        return
    try:
        marked = _try_epoll(fd, marker, first=True)
        yield
        if marked and _try_epoll(fd, marker, first=False):
            os.close(fd)
    finally:
        os.close(marker)


def _try_epoll(fd: int, marker: int, *, first: bool) -> bool:
    try:
        with select.epoll.fromfd(os.dup(fd)) as epoll:
            epoll.register(marker, 0) if first else epoll.modify(marker, 0)
    except OSError:
        return False
    return True
