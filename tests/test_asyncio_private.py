"""What asyncio and ssl keep private is there, on this version of Python, and does what we need."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextvars
import gc
import os
import signal
import socket
import ssl
import sys
import warnings
from asyncio import transports
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest

from vpoll_asyncio import _asyncio


@pytest.fixture
def loop() -> Iterator[asyncio.SelectorEventLoop]:
    loop = asyncio.SelectorEventLoop()
    yield loop
    loop.close()


def caller_of_fileno(monkeypatch: pytest.MonkeyPatch) -> list[CodeType]:
    callers = []

    def fileno(self: object) -> int:
        callers.append(sys._getframe(1).f_code)
        raise OSError("enough seen")

    monkeypatch.setattr(socket.socket, "fileno", fileno)
    return callers


def test_native_sendfile_asks_fileno_in_the_frame_we_know(
    loop: asyncio.SelectorEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs, open(__file__, "rb") as file, monkeypatch.context() as patched:
        callers = caller_of_fileno(patched)
        with pytest.raises(OSError, match="enough seen"):
            loop.run_until_complete(loop.sock_sendfile(ours, file))
    assert callers == [_asyncio.SENDFILE_CALLER]


def test_wrap_socket_asks_fileno_in_the_frame_we_know(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours, theirs = socket.socketpair()
    with ours, theirs, monkeypatch.context() as patched:
        callers = caller_of_fileno(patched)
        with pytest.raises(OSError, match="enough seen"):
            context.wrap_socket(ours, server_hostname="host")
    assert _asyncio.SSL_CALLER in callers


def test_handles_run_in_their_context_from_the_ready_queue(
    loop: asyncio.SelectorEventLoop,
) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    context = contextvars.copy_context()
    context.run(variable.set, 1)
    seen: list[object] = []

    class Handle(asyncio.Handle):
        def _run(self) -> None:
            seen.append("subclass")
            _asyncio.run_handle(self)

    handle = Handle(lambda: seen.append(variable.get()), (), loop, context)
    _asyncio.ready_queue(loop).append(handle)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["subclass", 1]


def test_exception_of_a_handle_goes_to_the_loops_handler(
    loop: asyncio.SelectorEventLoop,
) -> None:
    reports = []
    loop.set_exception_handler(lambda loop, report: reports.append(report["exception"]))
    _asyncio.run_handle(asyncio.Handle(lambda: 1 / 0, (), loop))
    assert [type(report) for report in reports] == [ZeroDivisionError]


def test_ready_queue_stays_the_same_object(loop: asyncio.SelectorEventLoop) -> None:
    queue = _asyncio.ready_queue(loop)
    loop.call_soon(loop.stop)
    assert len(queue) == 1
    loop.run_forever()
    assert not queue
    assert _asyncio.ready_queue(loop) is queue
    loop.close()
    assert _asyncio.ready_queue(loop) is queue


def test_byte_in_the_signal_pipe_wakes_the_loop(loop: asyncio.SelectorEventLoop) -> None:
    """A signal number without a handler is read and ignored."""
    loop.call_later(30, loop.stop)
    loop.call_soon(os.write, _asyncio.signal_pipe(loop), bytes([signal.SIGUSR1]))
    waiting = True
    select = loop._selector.select  # type: ignore[attr-defined]

    def recording(timeout: float | None = None) -> object:
        nonlocal waiting
        found = select(timeout)
        if found:
            waiting = False
            loop.stop()
        return found

    loop._selector.select = recording  # type: ignore[attr-defined]
    loop.run_forever()
    assert not waiting


def test_loop_knows_whether_it_handles_signals(loop: asyncio.SelectorEventLoop) -> None:
    assert not _asyncio.handles_signals(loop)
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)
    assert _asyncio.handles_signals(loop)
    loop.remove_signal_handler(signal.SIGUSR1)
    assert not _asyncio.handles_signals(loop)


class BlockWriter(_asyncio.FlowControl):
    """A transport that takes everything at once."""

    _start_tls_compatible = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.written = b""
        self.size = 0

    def get_write_buffer_size(self) -> int:
        return self.size

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def test_flow_control_begins_as_asyncio_begins_it(loop: asyncio.SelectorEventLoop) -> None:
    stock = transports._FlowControlMixin(None, loop)
    ours = _asyncio.FlowControl(loop)
    names = set(transports._FlowControlMixin.__slots__)
    assert names
    assert {name: getattr(ours, name) for name in names} == {
        name: getattr(stock, name) for name in names
    }


def test_file_is_sent_by_writing(loop: asyncio.SelectorEventLoop) -> None:
    transport = BlockWriter(loop)
    transport.set_protocol(asyncio.Protocol())
    with open(__file__, "rb") as file:
        sent = loop.run_until_complete(
            _asyncio.send_file_by_writing(loop, transport, file, 10, 100)
        )
        file.seek(10)
        assert transport.written == file.read(100)
    assert sent == 100


def test_stock_sendfile_writes_where_the_transport_says_so(
    loop: asyncio.SelectorEventLoop,
) -> None:
    transport = BlockWriter(loop)
    transport.set_protocol(asyncio.Protocol())
    transport._sendfile_compatible = _asyncio.SENDFILE_BY_WRITING  # type: ignore[attr-defined]
    with open(__file__, "rb") as file:
        assert loop.run_until_complete(loop.sendfile(transport, file, 0, 100)) == 100
    assert len(transport.written) == 100


def test_transports_that_can_send_files_say_so(loop: asyncio.SelectorEventLoop) -> None:
    transport = BlockWriter(loop)
    assert not _asyncio.can_send_files(transport)
    transport._sendfile_compatible = _asyncio.SENDFILE_BY_WRITING  # type: ignore[attr-defined]
    assert _asyncio.can_send_files(transport)


def test_transports_that_can_start_tls_say_so(loop: asyncio.SelectorEventLoop) -> None:
    assert _asyncio.can_start_tls(BlockWriter(loop))
    assert not _asyncio.can_start_tls(asyncio.Transport())


def test_tls_protocol_shows_its_applications_transport(loop: asyncio.SelectorEventLoop) -> None:
    tls = asyncio.sslproto.SSLProtocol(
        loop, asyncio.Protocol(), ssl.create_default_context(), loop.create_future(), False, "host"
    )
    transport = _asyncio.ssl_transport(tls)
    assert isinstance(transport, asyncio.Transport)
    assert _asyncio.can_start_tls(transport)
    transport.close()


def test_flow_control_pauses_and_resumes_the_protocol(loop: asyncio.SelectorEventLoop) -> None:
    calls = []

    class Protocol(asyncio.Protocol):
        def pause_writing(self) -> None:
            calls.append("pause")

        def resume_writing(self) -> None:
            calls.append("resume")

    flow: Any = BlockWriter(loop)
    flow._protocol = Protocol()
    flow.size = 1 << 20
    flow._maybe_pause_protocol()
    flow.size = 0
    flow._maybe_resume_protocol()
    assert calls == ["pause", "resume"]


def test_disowned_loop_is_collected_in_silence() -> None:
    class Half(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            _asyncio.disown(self)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Half()
        gc.collect()
    assert not caught


def test_bounds_of_timers_are_those_we_know() -> None:
    bounds = (_asyncio.LONGEST_SLEEP, _asyncio.FEW_TIMERS, _asyncio.CANCELLED_SHARE)
    assert bounds == (24 * 3600, 100, 0.5)


def test_default_policy_makes_its_loops_with_the_factory_that_is_set() -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(asyncio.SelectorEventLoop())
        return made[-1]

    previous = _asyncio.set_default_loop_factory(factory)
    try:
        loop = asyncio.new_event_loop()
        loop.close()
    finally:
        _asyncio.set_default_loop_factory(previous)
    assert made == [loop]
    with asyncio.Runner() as runner:
        assert runner.get_loop() not in made


def test_sock_connect_asks_for_the_protocol_in_the_frame_that_has_the_address(
    loop: asyncio.AbstractEventLoop,
) -> None:
    asked: list[object] = []

    class Asked(socket.socket):
        @property
        def proto(self) -> int:
            asked.append(_asyncio.address_to_look_up(sys._getframe(1)))
            raise OSError("enough seen")

    with Asked() as sock:
        sock.setblocking(False)
        with pytest.raises(OSError, match="enough seen"):
            loop.run_until_complete(loop.sock_connect(sock, ("name.invalid", 80)))
        assert asked == [("name.invalid", 80)]
        with pytest.raises(OSError, match="enough seen"):
            assert sock.proto
        assert asked[1:] == [None]
