"""What may be bound, connected, shut down and set: the rules of lwIP's sockets.

The tests are those of the memory stack and the kernel; what lwIP does not have is
listed here, and told in docs/lwip.md.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

import test_memory_rules
from lwip_helpers import lwip_on_wire
from memory_helpers import DEAD, ERR, Lab, error_of, failure, mask_of
from vpoll_asyncio.stacks.lwip import LwipStack

pytestmark = pytest.mark.needs("lwip")

NO_URGENT_DATA = {
    "test_mark_of_urgent_data",
    "test_second_urgent_byte_makes_the_first_ordinary",
}
NO_SUCH_OPTIONS = {
    "test_port_is_shared_when_both_agree",
    "test_reuseport_shares_a_listener",
    "test_flag",
    "test_number",
    "test_buffer_sizes_are_doubled",
}
NO_SIMULTANEOUS_OPEN = {"test_connection_with_oneself"}
SHORTER_DATAGRAMS = {"test_largest_datagram"}

for _name, _test in vars(test_memory_rules).items():
    if _name.startswith("test_") and _name not in (
        NO_URGENT_DATA | NO_SUCH_OPTIONS | NO_SIMULTANEOUS_OPEN | SHORTER_DATAGRAMS
    ):
        globals()[_name] = _test


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lwip_on_wire() as peer:
        lab = Lab(peer.stack)
        yield lab
        lab.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_is_shared_when_both_agree(lab: Lab, kind: int) -> None:
    first, second, third = (lab.keep(lab.stack.socket(type=kind)) for _ in range(3))
    for sock in (first, second):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    lab.bound(first)
    second.bind(first.getsockname())
    assert failure(third.bind, first.getsockname()) == errno.EADDRINUSE


def test_a_connection_with_oneself_is_never_made(lab: Lab) -> None:
    sock = lab.bound(lab.stream())
    assert sock.connect_ex(sock.getsockname()) == errno.EINPROGRESS
    assert mask_of(sock) == 0
    assert isinstance(lab.stack, LwipStack)
    lab.stack.skip_time(60)
    assert mask_of(sock) == DEAD | ERR
    assert error_of(sock) == errno.ETIMEDOUT


@pytest.mark.parametrize(("host", "largest"), [("127.0.0.1", 65507), ("::1", 65487)])
def test_the_largest_datagram(lab: Lab, host: str, largest: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    receiver, sender = (lab.keep(lab.stack.socket(family, socket.SOCK_DGRAM)) for _ in range(2))
    receiver.bind((host, 0))
    address = receiver.getsockname()
    assert sender.sendto(bytes(largest), address) == largest
    assert len(receiver.recv(1 << 17)) == largest
    assert failure(sender.sendto, bytes(largest + 1), address) == errno.EMSGSIZE
