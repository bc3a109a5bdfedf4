"""Blocking sockets of an lwIP stack drive it themselves, or wait for the loop that does."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator

import pytest

import vpoll_asyncio as va
from lwip_frames import ACK, SYN, frame, parse_tcp, tcp
from lwip_helpers import HOST4, PEER4, Peer, lwip_on_wire
from memory_helpers import W, failure, mask_of

pytestmark = pytest.mark.needs("lwip")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with lwip_on_wire() as peer:
        yield peer


def test_blocking_sockets_drive_the_stack_themselves(no_fd_leak: None, peer: Peer) -> None:
    with peer.stack.socket() as listener, peer.stack.socket() as client:
        listener.bind((HOST4, 80))
        listener.listen()
        results: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(65536):
                    results.append(data)
                connection.sendall(b"done")

        thread = threading.Thread(target=serve)
        thread.start()
        client.settimeout(30)
        client.connect((HOST4, 80))
        payload = os.urandom(500_000)
        client.sendall(payload)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b"done"
        thread.join()
        assert b"".join(results) == payload
    peer.stack.close()


def test_a_blocking_socket_times_out(peer: Peer) -> None:
    with peer.stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST4, 9))
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(10)


def test_a_blocking_socket_waits_for_frames_and_timers(peer: Peer) -> None:
    """Nobody answers the first request to connect; the timer's second one is answered."""
    replies: list[int] = []

    def answer() -> None:
        while len(replies) < 2:
            for one in peer.link.recv_batch():
                reply = peer.answer(one)
                if reply is not None:
                    peer.link.send_batch([reply])
                segment = parse_tcp(one)
                if segment and segment["flags"] == SYN:
                    replies.append(1)
                    assert isinstance(segment["seq"], int)
                    assert isinstance(segment["sport"], int)
                    if len(replies) == 2:
                        back = tcp(
                            (PEER4, 80),
                            (HOST4, segment["sport"]),
                            SYN | ACK,
                            7,
                            segment["seq"] + 1,
                        )
                        peer.link.send_batch([frame(back)])
            peer.link.vpoll.wait(va.EventMask.IN, 0.1)

    thread = threading.Thread(target=answer)
    thread.start()
    with peer.stack.socket() as client:
        client.settimeout(30)
        client.connect((PEER4, 80))
        assert mask_of(client) == W
    thread.join()


def test_a_thread_that_waits_is_woken_by_a_close(peer: Peer) -> None:
    sock = peer.stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST4, 9))
    errors: list[int] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        errors.append(failure(sock.recv, 10))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    sock.close()
    thread.join(30)
    assert errors == [errno.EBADF]
