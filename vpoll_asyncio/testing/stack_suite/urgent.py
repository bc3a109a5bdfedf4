"""Urgent data: one byte out of band."""

from __future__ import annotations

import errno
import socket

from .base import SuiteBase
from .lab import (
    FIONREAD,
    PRI,
    RDHUP,
    SIOCATMARK,
    Lab,
    R,
    W,
    ask,
    failure,
    mask_of,
)


class UrgentTests(SuiteBase):
    """The byte, the mark, and what shows of them in the mask."""

    def test_urgent_byte_alone(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"!", socket.MSG_OOB)
        lab.settles(server, W | PRI)
        assert failure(server.recv, 10) == errno.EAGAIN
        # Reading past the urgent byte's place forgets it.
        client.send(b"data")
        lab.settles(server, R | W)
        assert server.recv(10) == b"data"
        assert mask_of(server) == W

    def test_urgent_byte_read_out_of_band(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"!", socket.MSG_OOB)
        lab.settles(server, W | PRI)
        assert server.recv(1, socket.MSG_OOB) == b"!"
        assert mask_of(server) == W
        assert failure(server.recv, 1, socket.MSG_OOB) == errno.EINVAL

    def test_urgent_byte_with_data_before_it(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"abc!", socket.MSG_OOB)
        lab.settles(server, R | W | PRI)
        assert server.recv(10) == b"abc"
        assert mask_of(server) == W | PRI
        assert server.recv(1, socket.MSG_OOB) == b"!"
        assert mask_of(server) == W

    def test_urgent_byte_stays_when_the_peer_has_ended(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"!", socket.MSG_OOB)
        client.shutdown(socket.SHUT_WR)
        lab.settles(server, R | W | PRI | RDHUP)
        assert server.recv(1, socket.MSG_OOB) == b"!"
        assert mask_of(server) == R | W | RDHUP

    def test_urgent_byte_inline(self, lab: Lab) -> None:
        client, server = lab.pair()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        client.send(b"abc!", socket.MSG_OOB)
        lab.settles(server, R | W | PRI)
        assert server.recv(10) == b"abc"
        assert mask_of(server) == R | W | PRI
        assert failure(server.recv, 1, socket.MSG_OOB) == errno.EINVAL
        assert server.recv(10) == b"!"
        assert mask_of(server) == W

    def test_mark_of_urgent_data(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"ab!", socket.MSG_OOB)
        client.send(b"cd")
        lab.readable(server)
        assert ask(server, SIOCATMARK) == 0
        assert ask(server, FIONREAD) == 2
        assert server.recv(10) == b"ab"
        assert ask(server, SIOCATMARK) == 1
        assert lab.readable(server).recv(10) == b"cd"
        assert ask(server, SIOCATMARK) == 0

    def test_second_urgent_byte_makes_the_first_ordinary(self, lab: Lab) -> None:
        client, server = lab.pair()
        client.send(b"a!", socket.MSG_OOB)
        client.send(b"b?", socket.MSG_OOB)
        lab.until(lambda: ask(server, FIONREAD) == 3, "the second urgent byte does not come")
        assert server.recv(10) == b"a!b"
        assert server.recv(1, socket.MSG_OOB) == b"?"
