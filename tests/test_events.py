"""Event masks mean to each poller what the kernel's headers and Python's selectors say."""

from __future__ import annotations

import os
import select
import selectors
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpoll_asyncio import EventMask
from vpoll_asyncio.events import (
    ALWAYS,
    IN,
    KEPT,
    OUT,
    check_mask,
    from_selector,
    to_select,
    to_selector,
)
from vpoll_helpers import by_epoll, by_select

masks = st.integers(0, KEPT)
interests = st.sampled_from([0, IN, OUT, IN | OUT])


@pytest.mark.parametrize(
    "name", [name.removeprefix("EPOLL") for name in dir(select) if name.startswith("EPOLL")]
)
def test_members_have_the_values_of_the_select_module(name: str) -> None:
    if name in EventMask.__members__:
        assert EventMask[name] == getattr(select, f"EPOLL{name}")
    else:
        assert name in {"CLOEXEC", "_CLOEXEC", "ET", "EXCLUSIVE", "ONESHOT", "WAKEUP"}


def test_nval_has_the_value_of_poll() -> None:
    assert EventMask.NVAL == select.POLLNVAL


@given(masks)
def test_values_without_a_name_are_kept(mask: int) -> None:
    assert int(EventMask(mask)) == mask


@given(masks, masks)
def test_the_complement_is_the_rest_of_the_kept_bits(mask: int, other: int) -> None:
    rest = ~EventMask(mask)
    assert type(rest) is EventMask
    assert int(rest) == KEPT & ~mask
    assert ~rest == mask
    assert other & rest == rest & other == other & ~mask


@given(masks)
def test_check_mask_returns_plain_ints(mask: int) -> None:
    checked = check_mask(EventMask(mask))
    assert checked == mask
    assert type(checked) is int


@given(st.integers().filter(lambda mask: not 0 <= mask <= KEPT))
def test_bits_outside_0_to_27_are_refused(mask: int) -> None:
    with pytest.raises(ValueError, match=r"bits outside 0xfffffff: use EPOLL"):
        check_mask(mask)


@pytest.mark.parametrize("mask", ["IN", None, 1.0])
def test_what_is_no_integer_is_refused(mask: object) -> None:
    with pytest.raises(TypeError):
        check_mask(mask)  # type: ignore[arg-type]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("urgent", [False, True])
def test_to_select_agrees_with_the_kernel_on_a_socket(
    written: bool, full: bool, urgent: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        with ours, listener.accept()[0] as peer:
            ours.setblocking(False)
            waiting = select.poll()
            waiting.register(ours, select.POLLIN if written else select.POLLPRI)
            if written:
                peer.send(b"x")
                assert waiting.poll(20_000)
            if urgent:
                peer.send(b"x", socket.MSG_OOB)
                waiting.register(ours, select.POLLPRI)
                assert waiting.poll(20_000)
            if full:
                try:
                    while True:
                        ours.send(bytes(1 << 16))
                except BlockingIOError:
                    pass
            assert by_select(ours.fileno()) == to_select(by_epoll(ours.fileno()))


def test_to_select_agrees_with_the_kernel_on_a_hang_up() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    try:
        assert by_epoll(reader) == EventMask.HUP
        assert by_select(reader) == to_select(EventMask.HUP) == (True, False, False)
    finally:
        os.close(reader)


def test_to_select_agrees_with_the_kernel_on_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert by_epoll(writer) & EventMask.ERR
        assert by_select(writer) == to_select(by_epoll(writer)) == (True, True, False)
    finally:
        os.close(writer)


class ReportingEpoll:
    """Stands for select.epoll(), with events of our choosing."""

    def __init__(self, fd: int, mask: int) -> None:
        self.fd, self.mask, self.interest = fd, mask, 0

    def register(self, fd: int, interest: int) -> None:
        self.interest = interest

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        seen = self.mask & (self.interest | ALWAYS)
        return [(self.fd, seen)] if seen else []

    def close(self) -> None:
        pass


@given(mask=masks, asked=st.integers(1, 3))
def test_to_selector_is_what_epoll_selector_makes_of_a_mask(mask: int, asked: int) -> None:
    reader, writer = os.pipe()
    try:
        with selectors.EpollSelector() as selector:
            selector._selector.close()  # type: ignore[attr-defined]
            selector._selector = ReportingEpoll(reader, mask)  # type: ignore[attr-defined]
            key = selector.register(reader, asked)
            reported = dict(selector.select(0)).get(key, 0)
        assert to_selector(mask, from_selector(asked)) & asked == reported
    finally:
        os.close(reader)
        os.close(writer)


@given(mask=masks, interest=interests)
def test_to_selector_reports_errors_and_hang_ups_unasked(mask: int, interest: int) -> None:
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    assert to_selector(mask | EventMask.HUP, interest) == both
    assert to_selector(mask | EventMask.ERR, interest) == both
