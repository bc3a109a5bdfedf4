"""What calls on a stream return: every form of them, blocking or not, until its end."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from .base import SuiteBase
from .lab import DEAD, ERR, RDHUP, Lab, R, W, error_of, failure, linger_zero, mask_of

CALLS: dict[str, Callable[[socket.socket, Any], object]] = {
    "accept": lambda sock, at: sock.accept(),
    "bind": lambda sock, at: sock.bind(at),
    "connect": lambda sock, at: sock.connect(at),
    "getpeername": lambda sock, at: sock.getpeername(),
    "getsockname": lambda sock, at: sock.getsockname(),
    "getsockopt": lambda sock, at: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
    "listen": lambda sock, at: sock.listen(),
    "recv": lambda sock, at: sock.recv(1),
    "recv_into": lambda sock, at: sock.recv_into(bytearray(1)),
    "recvfrom": lambda sock, at: sock.recvfrom(1),
    "recvmsg": lambda sock, at: sock.recvmsg(1),
    "send": lambda sock, at: sock.send(b"x"),
    "sendall": lambda sock, at: sock.sendall(b"x"),
    "sendmsg": lambda sock, at: sock.sendmsg([b"x"]),
    "sendto": lambda sock, at: sock.sendto(b"x", at),
    "setsockopt": lambda sock, at: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "shutdown": lambda sock, at: sock.shutdown(socket.SHUT_RDWR),
}


NO_BYTES: dict[str, Callable[[socket.socket], tuple[Any, ...]]] = {
    "recvfrom": lambda sock: sock.recvfrom(0),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray()),
    "recvmsg": lambda sock: sock.recvmsg(0),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray()]),
    "peeking": lambda sock: sock.recvfrom(0, socket.MSG_PEEK),
}
"""Calls that pass a length of 0 on, as `recv` and `recv_into` do not."""


def receive(lab: Lab, sock: socket.socket, count: int) -> bytes:
    """Return the next `count` bytes, or all until the end where there are fewer."""
    data = b""
    while len(data) < count:
        part = lab.readable(sock).recv(count - len(data))
        if not part:
            break
        data += part
    return data


class StreamTests(SuiteBase):
    """send(2), recv(2) and their like, shutdown(2), close(2), and the two ends' errors."""

    def test_parts_of_what_was_sent_are_received_in_order(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"one ")
        client.sendall(b"two ")
        client.sendmsg([b"th", b"re", b"e"])
        client.send(memoryview(bytearray(b" four")))
        assert receive(lab, server, 6) == b"one tw"
        assert receive(lab, server, 12) == b"o three four"
        assert failure(server.recv, 1) == errno.EAGAIN

    def test_peeking_takes_nothing(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"data")
        lab.readable(server)
        assert server.recv(2, socket.MSG_PEEK) == b"da"
        assert server.recv(2) == b"da"
        assert server.recv(10, socket.MSG_PEEK) == b"ta"
        assert server.recv(10) == b"ta"

    def test_several_buffers_are_filled_one_after_the_other(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"abcdefg")
        lab.readable(server)
        first, second = bytearray(3), bytearray(10)
        count, ancillary, _, sender = server.recvmsg_into([first, second])
        assert (count, ancillary, bytes(first)) == (7, [], b"abc")
        assert second == b"defg" + bytes(6)
        # A stream's bytes have no sender: Python makes None of the kernel's empty name.
        assert sender is None

    def test_recv_into_takes_a_part_of_the_buffer(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"abcdef")
        lab.readable(server)
        buffer = bytearray(b"......")
        assert server.recv_into(buffer, 4) == 4
        assert buffer == b"abcd.."
        assert server.recvfrom_into(buffer)[0] == 2
        assert buffer == b"efcd.."

    def test_waitall_waits_for_all_or_the_end(self, lab: Lab) -> None:
        client, server = lab.pair()
        # Python's timeouts are non-blocking calls of the system, which wait for nothing.
        server.setblocking(True)
        client.send(b"first")
        lab.readable(server)
        client.send(b" second")
        assert server.recv(12, socket.MSG_WAITALL) == b"first second"
        client.send(b"last")
        client.shutdown(socket.SHUT_WR)
        assert server.recv(12, socket.MSG_WAITALL) == b"last"

    def test_dontwait_does_not_wait(self, lab: Lab) -> None:
        _, server = lab.pair()
        server.setblocking(True)
        assert failure(server.recv, 1, socket.MSG_DONTWAIT) == errno.EAGAIN

    def test_blocking_calls_time_out(self, lab: Lab) -> None:
        client, _ = lab.pair()
        listener = lab.listener()
        for sock in (client, listener):
            sock.settimeout(0.02)
        more = bytes(1 << 26)
        for call in (lambda: client.recv(1), lambda: client.sendall(more), listener.accept):
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="timed out"):
                call()
            # The clock of a timer may tick a little before the process's.
            assert time.monotonic() - began > 0.01

    def test_blocking_connect_and_accept(self, lab: Lab) -> None:
        listener = lab.listener()
        client = lab.stream()
        for sock in (listener, client):
            sock.settimeout(self.bound)
        client.connect(listener.getsockname())
        server, address = listener.accept()
        lab.keep(server)
        assert address == client.getsockname()
        server.settimeout(self.bound)
        client.sendall(b"hello")
        assert server.recv(10) == b"hello"

    def test_blocking_connect_is_refused(self, lab: Lab) -> None:
        client = lab.stream()
        client.settimeout(self.bound)
        with pytest.raises(ConnectionRefusedError):
            client.connect(lab.refusing_address())
        again = lab.stream()
        again.settimeout(self.bound)
        assert again.connect_ex(lab.refusing_address()) == errno.ECONNREFUSED

    def test_what_a_listener_with_a_timeout_accepts_blocks(self, lab: Lab) -> None:
        listener = lab.listener()
        listener.settimeout(self.bound)
        lab.connecting(listener)
        server, _ = listener.accept()
        assert server.gettimeout() is None
        lab.keep(server)

    @pytest.mark.parametrize("closer", ["client", "server"])
    def test_half_of_a_connection_goes_on(self, lab: Lab, closer: str) -> None:
        client, server = lab.pair()
        done, other = (client, server) if closer == "client" else (server, client)
        done.send(b"the last of it")
        done.shutdown(socket.SHUT_WR)
        assert receive(lab, other, 100) == b"the last of it"
        lab.settles(other, R | W | RDHUP)
        other.send(b"the answer")
        assert receive(lab, done, 10) == b"the answer"
        assert failure(done.send, b"more") == errno.EPIPE
        other.close()
        lab.settles(done, DEAD)
        assert done.recv(1) == b""

    def test_shutting_down_twice_is_allowed_while_connected(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.shutdown(socket.SHUT_WR)
        client.shutdown(socket.SHUT_WR)
        lab.settles(server, R | W | RDHUP)
        client.shutdown(socket.SHUT_RD)
        assert mask_of(client) == DEAD

    def test_unknown_way_to_shut_down(self, lab: Lab) -> None:
        client, _ = lab.pair()
        assert failure(client.shutdown, 3) == errno.EINVAL

    def test_data_sent_before_a_close_arrive(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"the last words")
        client.close()
        assert receive(lab, server, 100) == b"the last words"
        assert server.recv(1) == b""

    def test_data_sent_before_the_connection_is_accepted_arrive(self, lab: Lab) -> None:
        listener = lab.listener()
        client = lab.connecting(listener)
        lab.settles(client, W)
        client.send(b"early")
        client.close()
        server = lab.accepted(listener)
        assert receive(lab, server, 100) == b"early"

    def test_a_reset_is_told_once_and_then_the_end(self, lab: Lab) -> None:
        client, server = lab.pair()
        linger_zero(server)
        server.close()
        lab.settles(client, DEAD | ERR)
        assert failure(client.recv, 1) == errno.ECONNRESET
        assert [client.recv(1), client.recv(1)] == [b"", b""]
        assert failure(client.send, b"x") == errno.EPIPE
        assert failure(client.getpeername) == errno.ENOTCONN
        assert error_of(client) == 0

    def test_a_reset_is_told_to_who_sends(self, lab: Lab) -> None:
        client, server = lab.pair()
        linger_zero(server)
        server.close()
        lab.settles(client, DEAD | ERR)
        assert failure(client.send, b"x") == errno.ECONNRESET
        assert failure(client.send, b"x") == errno.EPIPE
        assert client.recv(1) == b""

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
    def test_a_closed_socket_is_no_socket(self, lab: Lab, call: str, blocking: bool) -> None:
        sock = lab.stream()
        sock.setblocking(blocking)
        sock.close()
        assert failure(CALLS[call], sock, (lab.address, 9)) == errno.EBADF
        assert sock.fileno() == -1

    def test_closing_twice_is_allowed(self, lab: Lab) -> None:
        client, _ = lab.pair()
        client.close()
        client.close()

    def test_a_file_of_a_socket_reads_and_writes_lines(self, lab: Lab) -> None:
        client, server = lab.pair()
        for sock in (client, server):
            sock.settimeout(self.bound)
        with client.makefile("rwb") as near, server.makefile("rw", encoding="utf-8") as far:
            near.write(b"caf\xc3\xa9\n")
            near.flush()
            assert far.readline() == "café\n"
            far.write("answer\n")
            far.flush()
            assert near.readline() == b"answer\n"

    def test_nothing_is_sent_and_nothing_received_for_no_bytes(self, lab: Lab) -> None:
        client, server = lab.pair()
        assert client.send(b"") == 0
        client.send(b"x")
        lab.readable(server)
        assert server.recv(0) == b""
        assert server.recv(1) == b"x"

    @pytest.mark.parametrize("call", NO_BYTES)
    def test_asking_for_no_bytes_waits_for_some_and_takes_none(self, lab: Lab, call: str) -> None:
        client, server = lab.pair()
        ask = NO_BYTES[call]
        assert failure(ask, server) == errno.EAGAIN
        client.send(b"x")
        lab.readable(server)
        assert ask(server)[0] in (0, b"")
        assert server.recv(1) == b"x"
        client.close()
        lab.settles(server, R | W | RDHUP)
        assert ask(server)[0] in (0, b"")
