"""An lwIP stack that a thread of its own drives while no loop does."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import vpoll_asyncio as va
from link_helpers import receive_that
from lwip_frames import ACK, MAC, PSH, SYN, frame, icmp, parse_tcp, tcp
from lwip_helpers import HOST4, PEER4, Peer
from transport_helpers import LOOPS, LoopFactory
from vpoll_asyncio.links import FdLink, WireLink, wire_pair
from vpoll_asyncio.stacks import open_stack
from vpoll_asyncio.stacks.lwip import LwipStack
from vpoll_asyncio.stacks.lwip.ports import Port

pytestmark = pytest.mark.needs("lwip")


class Outside:
    """The other end of the wire of a stack that drives itself."""

    def __init__(self, stack: LwipStack, link: WireLink) -> None:
        self.stack = stack
        self.link = link

    def until(self, kind: str) -> bytes:
        """Answer for hardware addresses until a frame of `kind`, ``tcp`` or ``icmp``, is here."""
        number = {"tcp": 6, "icmp": 1}[kind]

        def wanted(received: bytes) -> bool:
            if answer := Peer.answer(received):
                self.link.send_batch([answer])
            return received[12:14] == b"\x08\x00" and received[23] == number

        return receive_that(self.link, wanted)

    def ping(self) -> None:
        """Wait for the answer to an echo request."""
        self.link.send_batch([frame(icmp(8, 0, bytes(8), PEER4, HOST4))])
        assert self.until("icmp")[34] == 0

    def segment(self, flags: int, seq: int, ack: int = 0, data: bytes = b"") -> dict[str, object]:
        """Send a segment from port 5000 to port 80; return the next one of the stack's."""
        self.link.send_batch([frame(tcp((PEER4, 5000), (HOST4, 80), flags, seq, ack, data))])
        return dict(parse_tcp(self.until("tcp")) or {})


@pytest.fixture
def outside() -> Iterator[Outside]:
    near, far = wire_pair()
    with far, open_stack("lwip", link=near, ip=f"{HOST4}/24", mac=MAC, thread=True) as stack:
        assert isinstance(stack, LwipStack)
        yield Outside(stack, far)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vpoll-lwip"]


def listening(stack: LwipStack) -> socket.socket:
    listener = stack.socket()
    listener.bind((HOST4, 80))
    listener.listen()
    return listener


def test_pings_are_answered_while_the_program_does_something_else(outside: Outside) -> None:
    for _ in range(3):
        outside.ping()


def test_connections_are_made_and_data_acknowledged_before_anybody_accepts(
    outside: Outside,
) -> None:
    with listening(outside.stack) as listener:
        synack = outside.segment(SYN, 1)
        assert synack["flags"] == SYN | ACK
        assert isinstance(synack["seq"], int)
        # The acknowledgement is delayed: a timer sends it.
        answer = outside.segment(PSH | ACK, 2, synack["seq"] + 1, b"hello")
        assert answer["ack"] == 7
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b"hello"


def test_a_program_that_polls_descriptors_sees_what_comes(outside: Outside) -> None:
    with listening(outside.stack) as listener:
        synack = outside.segment(SYN, 1)
        assert isinstance(synack["seq"], int)
        outside.link.send_batch([frame(tcp((PEER4, 5000), (HOST4, 80), ACK, 2, synack["seq"] + 1))])
        assert select.select([listener], [], [], 20) == ([listener], [], [])
        listener.accept()[0].close()


def test_blocking_sockets_in_threads_talk(outside: Outside) -> None:
    with listening(outside.stack) as listener:

        def serve() -> None:
            server, _ = listener.accept()
            with server:
                while data := server.recv(65536):
                    server.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        with socket_to(outside.stack) as client:
            sent = os.urandom(300_000)
            sender = threading.Thread(target=client.sendall, args=(sent,))
            sender.start()
            received = b""
            while len(received) < len(sent):
                received += client.recv(65536)
            assert received == sent
            sender.join()
        thread.join()


def socket_to(stack: LwipStack) -> socket.socket:
    client = stack.socket()
    client.connect((HOST4, 80))
    return client


class Turns:
    """Which threads have driven the stack."""

    def __init__(self, stack: LwipStack) -> None:
        self.by: list[threading.Thread] = []
        turn = stack.core.turn

        def counted(readable: Port | bool) -> None:
            self.by.append(threading.current_thread())
            turn(readable)

        stack.core.turn = counted  # type: ignore[method-assign]


@pytest.mark.parametrize("factory", LOOPS)
def test_a_running_loop_takes_over_and_the_thread_goes_on_after_it(
    outside: Outside, factory: LoopFactory
) -> None:
    turns = Turns(outside.stack)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        outside.stack.attach(loop)
        for _ in range(3):
            await loop.run_in_executor(None, outside.ping)
        turns.by.clear()
        for _ in range(3):
            await loop.run_in_executor(None, outside.ping)
        assert set(turns.by) == {threading.current_thread()}

    outside.ping()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    turns.by.clear()
    outside.ping()
    assert set(turns.by) == set(threads())


@pytest.mark.parametrize("factory", LOOPS)
def test_the_thread_takes_over_from_a_loop_that_stops_and_gives_back(
    outside: Outside, factory: LoopFactory
) -> None:
    async def exchange() -> None:
        reader, writer = await va.open_connection(HOST4, 80, stack=outside.stack)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    loop = factory()
    try:
        outside.stack.attach(loop)
        outside.ping()
        server = loop.run_until_complete(va.start_server(echo, HOST4, 80, stack=outside.stack))
        for _ in range(3):
            loop.run_until_complete(exchange())
            outside.ping()
        server.close()
        loop.run_until_complete(server.wait_closed())
    finally:
        outside.stack.detach(loop)
        loop.close()
    outside.ping()


def test_what_a_waiter_raises_is_logged_and_the_stack_goes_on(
    outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(mask: int) -> None:
        raise RuntimeError("a waiter is broken")

    with listening(outside.stack) as listener:
        vpoll = listener.vpoll  # type: ignore[attr-defined]
        vpoll.add_waiter(broken)
        synack = outside.segment(SYN, 1)
        assert isinstance(synack["seq"], int)
        outside.link.send_batch([frame(tcp((PEER4, 5000), (HOST4, 80), ACK, 2, synack["seq"] + 1))])
        while "a waiter is broken" not in caplog.text:
            outside.ping()
        vpoll.remove_waiter(broken)
        listener.accept()[0].close()
    outside.ping()


def test_closing_ends_the_thread(no_fd_leak: None) -> None:
    near, far = wire_pair()
    with far:
        stack = open_stack("lwip", link=near, ip=f"{HOST4}/24", thread=True)
        assert len(threads()) == 1
        stack.close()
        assert threads() == []


def test_closing_in_the_thread_itself(outside: Outside) -> None:
    closed = threading.Event()

    def close(mask: int) -> None:
        outside.stack.close()
        closed.set()

    listener = listening(outside.stack)
    [thread] = threads()
    listener.vpoll.add_waiter(close)  # type: ignore[attr-defined]
    synack = outside.segment(SYN, 1)
    assert isinstance(synack["seq"], int)
    outside.link.send_batch([frame(tcp((PEER4, 5000), (HOST4, 80), ACK, 2, synack["seq"] + 1))])
    assert closed.wait(20)
    thread.join(20)
    assert not thread.is_alive()
    listener.close()


def test_a_link_that_breaks_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    link = FdLink(ours, medium="ip")
    with open_stack("lwip", link=link, ip=f"{HOST4}/24", thread=True) as stack:
        assert isinstance(stack, LwipStack)
        theirs.close()
        while stack.link_error is None:
            time.sleep(0)
        turns = Turns(stack)
        with stack.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind((HOST4, 9))
            sock.sendto(b"to itself", (HOST4, 9))
            assert sock.recv(100) == b"to itself"
        assert len(turns.by) < 20


def test_an_idle_stack_lets_the_thread_sleep(outside: Outside) -> None:
    turns = Turns(outside.stack)
    with listening(outside.stack):
        # The timer of lwIP's tables is due once a second.
        time.sleep(1)
    assert len(turns.by) <= 6


def test_a_forked_child_has_no_thread_and_the_parents_goes_on(outside: Outside) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert outside.stack.closed
            assert threads() == []
            near, far = wire_pair()
            with far, open_stack("lwip", link=near, ip=f"{HOST4}/24", mac=MAC, thread=1) as own:
                assert isinstance(own, LwipStack)
                Outside(own, far).ping()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    outside.ping()


_LEFT_OPEN = """
import vpoll_asyncio as va
stack = va.open_stack("lwip", vnl="wire://x", ip="10.0.0.1/24", thread=True)
sock = stack.socket()
sock.bind(("10.0.0.1", 80))
sock.listen()
print("end of the program")
"""


def test_a_program_ends_with_its_stack_open() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LEFT_OPEN], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end of the program\n", "")


@pytest.mark.parametrize(("word", "on"), [("thread", 1), ("thread=1", 1), ("thread=0", 0)])
def test_the_option_in_a_configuration_string(word: str, on: int) -> None:
    with open_stack(f"stack=lwip,vnl=wire://x,ip=10.0.0.1/24,{word}"):
        assert len(threads()) == on


def test_a_bad_option_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="thread='perhaps'"):
        open_stack("lwip", vnl="wire://x", thread="perhaps")
