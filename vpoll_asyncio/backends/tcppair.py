"""The `tcppair` backend: IN, OUT, PRI and ERR by a TCP connection over the loopback.

What each event is, on the front end of the pair:

- IN is a byte that the back sent, PRI an urgent one (MSG_OOB).  Reading past the urgent
  mark clears PRI too, so whoever clears IN alone raises PRI again.
- OUT depends on SO_SNDBUF.  Once OUT is cleared for the first time, some data waits in
  the front's send buffer for ever, the back's small window being closed.  A little
  SO_SNDBUF then makes the front unwritable and a large one writable, with one system
  call and without moving data.
- ERR is a message in the error queue: the transmit timestamp of one byte.  That byte
  queues behind the waiting data, which must be let out first, so raising ERR while OUT
  is cleared takes long (0.2 ms) and shows OUT for a moment.

The loopback delivers within the system call of the sender, as a rule; under load it
may be late, so the bytes on their way are counted before a state is believed.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from typing import Final

from ..events import ERR, IN, OUT, PRI
from ..kernel import KernelSocket
from .base import SET, SHORTAGES, Backend, Mirror
from .pair import AT_ONCE, DONT_WAIT, FILLING, UNKNOWN, PairMirror, drain, nearest, send

__all__ = ["TcpPairBackend", "TcpPairMirror"]

# The front is unwritable when its queue exceeds two thirds of SO_SNDBUF (in the kernel's
# accounting, twice the value given): what the back's window lets through and what is
# acknowledged later must stay below the other third.
_LITTLE: Final = 16384
_LARGE: Final = 262144
_WINDOW: Final = 4096

# <linux/net_tstamp.h>; asm-generic's number of the option.
_SO_TIMESTAMPING: Final = 37
_TX_SCHED: Final = 1 << 8
_SOFTWARE: Final = 1 << 4
_OPT_TSONLY: Final = 1 << 11
_STAMPED: Final = [(socket.SOL_SOCKET, _SO_TIMESTAMPING, struct.pack("=I", _TX_SCHED))]
_MSG_ERRQUEUE: Final = 0x2000

# struct tcp_info: tcpi_unacked, tcpi_bytes_received.
_info: Final = struct.Struct("=24xI100xQ")

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

_ROUNDS: Final = 64
_PAUSE: Final = 50e-6  # seconds
_PATIENCE: Final = 2.0  # seconds


class TcpPairMirror(PairMirror):
    """A loopback TCP connection whose front shows IN, OUT, PRI and ERR."""

    def __init__(self, front: socket.socket, back: socket.socket, exact: int) -> None:
        # Bytes from the back to the front; whether all of them have arrived.
        self._sent = 0
        self._arrived = True
        # Whether PRI or ERR was ever shown: then an event may appear without a stranger's
        # doing, so that each operation looks first.
        self._drifts = False
        super().__init__(front, back, exact)

    def apply(self, command: int, argument: int, mask: int) -> int:
        if mask != self._flipped:
            return self._adjust(mask)
        # Everything that was sent has been read, but for the one byte of IN.
        self._flipped = UNKNOWN
        if mask:
            self._sent += self.back.send(b"!", AT_ONCE)
            if self.look() != IN:
                self._arrived = False
                self._await_arrival()
                self._shown = self.look()
                return self._adjust(mask)
        else:
            try:
                self.front.recv(1, DONT_WAIT)
            except BlockingIOError:
                self._shown = 0
                return self._adjust(mask)
        self._flipped = mask ^ IN
        return mask

    def _adjust(self, mask: int) -> int:
        want = nearest(mask, self._exact)
        shown = self._shown if self._flipped < 0 else self._flipped ^ IN
        self._flipped = UNKNOWN
        if shown < 0:
            self._recount()
        if shown & want or shown < 0 or self._drifts:
            shown = self.look()
        self._shown = UNKNOWN
        if shown != want:
            if want & (PRI | ERR):
                self._drifts = True
            self.change(shown, want)
        if want or self._drifts:
            self._shown = want
        else:
            self._flipped = IN
        return mask

    def _recount(self) -> None:
        """Find out how many bytes were sent, after an exception struck while one was."""
        deadline = time.monotonic() + _PATIENCE
        acknowledge(self.front)
        while self._info(self.back)[0]:
            pause(deadline)
            acknowledge(self.front)
        self._sent = self._info(self.front)[1]
        self._arrived = True

    def change(self, shown: int, want: int) -> None:
        for _ in range(_ROUNDS):
            self._await_arrival()
            changed = shown ^ want
            if changed & ERR:
                if want & ERR:
                    self._raise_error(want)
                else:
                    self._clear_error()
            if changed & OUT:
                if want & OUT:
                    self._raise_out()
                else:
                    self._clear_out()
            if changed & (IN | PRI):
                self._set_readable(shown, want)
            shown = self.look()
            if shown == want:
                return
        raise TimeoutError(
            errno.ETIMEDOUT,
            f"the loopback connection shows {shown:#x} instead of {want:#x}; "
            "the next operation tries again",
        )

    def _signal(self, flags: int) -> None:
        self._arrived = False
        self._sent += self.back.send(b"!", AT_ONCE | flags)

    def _await_arrival(self) -> None:
        """Wait, a moment as a rule, until nothing is under way to the front."""
        if self._arrived:
            return
        deadline = time.monotonic() + _PATIENCE
        while self._info(self.front)[1] != self._sent:
            # The sender's congestion window may be full until what has arrived is
            # acknowledged, which the receiver of single bytes puts off.
            acknowledge(self.front)
            if self._info(self.front)[1] != self._sent:
                pause(deadline)
        self._arrived = True

    def _info(self, end: socket.socket) -> tuple[int, int]:
        """Return how many segments are not acknowledged, and how many bytes were received."""
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _info.size)
        unacknowledged, received = _info.unpack(info)
        return unacknowledged, received

    def _set_readable(self, shown: int, want: int) -> None:
        clear = shown & ~want
        if clear & PRI and want & IN and not clear & IN:
            try:
                self.front.recv(1, socket.MSG_DONTWAIT | socket.MSG_OOB)
            except OSError as error:
                # EINVAL: somebody has read the urgent byte already.
                if error.errno not in (errno.EINVAL, errno.EAGAIN):
                    raise
        elif clear & (IN | PRI):
            while drain(self.front):
                pass
            shown &= ~(IN | PRI)
        if want & ~shown & PRI:
            self._signal(socket.MSG_OOB)
        if want & ~shown & IN:
            self._signal(0)

    def _raise_out(self) -> None:
        self._limit(_LARGE)
        # A foreign writer may have filled even that.
        while not self.look() & OUT and drain(self.back):
            pass

    def _clear_out(self) -> None:
        self._limit(_LITTLE)
        while send(self.front, FILLING):
            pass

    def _limit(self, size: int) -> None:
        self.front.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def _raise_error(self, want: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        sent = 0
        while not self.look() & ERR:
            if not sent:
                try:
                    sent = self.front.sendmsg([b"!"], _STAMPED, AT_ONCE)
                    continue
                except BlockingIOError:
                    pass
            if not drain(self.back):
                acknowledge(self.back)
                pause(deadline)
        # A segment that is sent again, since its acknowledgement is put off, would bring
        # a second timestamp, after ERR was cleared perhaps.
        drain(self.back)
        acknowledge(self.back)
        while self._info(self.front)[0]:
            pause(deadline)
            acknowledge(self.back)
        if not want & OUT:
            self._clear_out()

    def _clear_error(self) -> None:
        while True:
            try:
                self.front.recvmsg(0, 0, _MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return


def acknowledge(end: socket.socket) -> None:
    """Send the acknowledgement that `end` puts off, if it does."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def pause(deadline: float) -> None:
    """Let the loopback work for a moment.  Raises TimeoutError after `deadline`."""
    if time.monotonic() > deadline:
        raise TimeoutError(errno.ETIMEDOUT, "the loopback does not deliver")
    time.sleep(_PAUSE)


def connected_pair(window: int) -> tuple[socket.socket, socket.socket]:
    """Return two ends of one loopback TCP connection, the second with a small `window`.

    Another process may connect to the listening port first, so whatever is accepted is
    compared with the end that we connected, by both of its addresses.

    Raises OSError when the kernel refuses: EMFILE, ENETUNREACH without a loopback,
    ETIMEDOUT when strangers keep the connection from being accepted.
    """
    with KernelSocket() as listener:
        # Before listen(2): the window is agreed upon in the handshake.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        listener.bind(("127.0.0.1", 0))
        listener.listen(socket.SOMAXCONN)
        listener.settimeout(_PATIENCE)
        front = KernelSocket()
        try:
            front.settimeout(_PATIENCE)
            front.connect(listener.getsockname())
            ends = (front.getpeername(), front.getsockname())
            deadline = time.monotonic() + _PATIENCE
            while True:
                back, peer = listener.accept()
                try:
                    ours = (back.getsockname(), peer) == ends
                except BaseException:
                    back.close()
                    raise
                if ours:
                    return front, back
                back.close()
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"strangers keep connecting to {ends[0]}, to which we do"
                    )
        except BaseException:
            front.close()
            raise


class TcpPairBackend(Backend):
    """A loopback TCP connection: all combinations of IN, OUT, PRI and ERR."""

    name = "tcppair"
    exact = IN | OUT | PRI | ERR

    def __init__(self) -> None:
        self._proven = False

    def missing(self) -> str:
        try:
            if self._proven:
                # Another network namespace since then may have no loopback.
                with KernelSocket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.connect(("127.0.0.1", 9))
                return ""
            for mask in (self.exact, IN | PRI, OUT):
                mirror = self.create(mask)
                mirror.release(mirror.fd)
                mirror.close()
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            return f"no loopback TCP connection that shows events: {error.strerror}"
        self._proven = True
        return ""

    def create(self, mask: int) -> Mirror:
        front, back = connected_pair(_WINDOW)
        try:
            front.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _SOFTWARE | _OPT_TSONLY)
            for end in (front, back):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # No TIME_WAIT, which would hold one of the machine's ports for a minute.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            mirror = TcpPairMirror(front, back, self.exact)
            mirror.apply(SET, mask, mask)
        except BaseException:
            front.close()
            back.close()
            raise
        return mirror
