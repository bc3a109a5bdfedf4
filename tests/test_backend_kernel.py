"""EFD_VPOLL and /dev/vpoll: what we tell the kernel anywhere, and what it does where it can."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpoll_asyncio import EventMask, VPoll
from vpoll_asyncio.backends import by_name, device, eventfd
from vpoll_asyncio.backends.base import ADD, DEL, SET
from vpoll_asyncio.events import KEPT, POLLFREE
from vpoll_helpers import KERNEL_BACKENDS, ONE_KERNEL_OBJECT, by_epoll, by_poll, in_child

IN, OUT, HUP = EventMask.IN, EventMask.OUT, EventMask.HUP

pytestmark = pytest.mark.usefixtures("no_fd_leak")

commands = st.sampled_from([(ADD, 1), (DEL, 2), (SET, 3)])


@given(command=commands, mask=st.integers(0, KEPT))
def test_a_command_is_eight_native_bytes_with_the_number_in_the_upper_half(
    command: tuple[int, int], mask: int
) -> None:
    ours, published = command
    assert eventfd.encode(ours, mask) == (published * 2**32 + mask).to_bytes(8, sys.byteorder)


@pytest.mark.parametrize(("command", "number"), [(ADD, 0x5E01), (DEL, 0x5E02), (SET, 0x5E03)])
def test_requests_of_the_device_are_as_published(command: int, number: int) -> None:
    assert device.request(command) == number


@given(command=commands, answer=st.integers(0, KEPT).map(lambda mask: mask & ~POLLFREE))
def test_eventfd_passes_the_command_on_and_returns_the_mask_of_the_kernel(
    command: tuple[int, int], answer: int
) -> None:
    ours, published = command
    end, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with end, kernel:
        kernel.send(answer.to_bytes(8, sys.byteorder))
        mirror = eventfd.EventfdMirror(end.fileno())
        assert mirror.apply(ours, 0x5, 0) == answer
        assert kernel.recv(64) == (published * 2**32 + 5).to_bytes(8, sys.byteorder)


def test_the_device_gets_the_command_and_its_answer_is_the_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int, int]] = []

    def ioctl(fd: int, request: int, argument: int) -> int:
        asked.append((fd, request, argument))
        return 0x15

    monkeypatch.setattr(device, "ioctl", ioctl)
    assert device.DeviceMirror(77).apply(DEL, 0x4, 0) == 0x15
    assert asked == [(77, 0x5E02, 0x4)]


@given(command=commands, argument=st.integers(0, KEPT), mask=st.integers(0, KEPT))
def test_bit_14_reaches_no_eventfd_and_is_kept_all_the_same(
    command: tuple[int, int], argument: int, mask: int
) -> None:
    end, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with end, kernel:
        kernel.send(int(IN).to_bytes(8, sys.byteorder))
        answer = eventfd.EventfdMirror(end.fileno()).apply(command[0], argument, mask)
        assert answer == IN | mask & POLLFREE
        assert not int.from_bytes(kernel.recv(64), sys.byteorder) & POLLFREE


@given(command=commands, argument=st.integers(0, KEPT), mask=st.integers(0, KEPT))
def test_bit_14_reaches_no_device_and_is_kept_all_the_same(
    command: tuple[int, int], argument: int, mask: int
) -> None:
    def ioctl(fd: int, request: int, argument: int) -> int:
        assert not argument & POLLFREE
        return int(IN)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(device, "ioctl", ioctl)
        answer = device.DeviceMirror(77).apply(command[0], argument, mask)
    assert answer == IN | mask & POLLFREE


@pytest.mark.parametrize("backend", KERNEL_BACKENDS)
def test_bit_14_cuts_no_waiter_off(backend: str) -> None:
    with VPoll(backend=backend) as vpoll, VPoll(POLLFREE | IN, backend=backend) as other:
        with select.epoll() as epoll:
            epoll.register(vpoll, select.EPOLLIN)
            epoll.register(other, select.EPOLLIN)
            assert vpoll.add_events(POLLFREE) == POLLFREE
            assert vpoll.add_events(IN) == POLLFREE | IN
            assert vpoll.events == other.events == POLLFREE | IN
            assert sorted(epoll.poll(0)) == sorted((each.fileno(), IN) for each in (vpoll, other))
            assert vpoll.del_events(POLLFREE) == vpoll.events == IN
            assert vpoll.set_events(POLLFREE | OUT) == vpoll.events == POLLFREE | OUT
            assert epoll.poll(0) == [(other.fileno(), IN)]


def test_an_eventfd_that_ignores_the_flag_is_not_taken_for_a_vpoll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = os.eventfd

    def without_the_flag(value: int, flags: int) -> int:
        return plain(value, flags & ~2)

    monkeypatch.setattr(os, "eventfd", without_the_flag)
    assert "flag 2 is not EFD_VPOLL" in eventfd.EventfdBackend().missing()


def test_a_kernel_without_efd_vpoll_is_named_as_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = os.eventfd

    def stock(value: int, flags: int) -> int:
        # Any unknown flag: EINVAL, as bit 1 has it on a stock kernel.
        return plain(value, flags | 0x100)

    monkeypatch.setattr(os, "eventfd", stock)
    assert "lacks EFD_VPOLL" in eventfd.EventfdBackend().missing()


@pytest.mark.parametrize(
    ("path", "reason"), [("/dev/null", "not the device"), ("/dev/no-such", "vpoll-dkms")]
)
def test_another_device_or_none_is_not_taken_for_a_vpoll(
    monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    monkeypatch.setattr(device, "PATH", path)
    assert reason in device.DeviceBackend().missing()


def test_a_device_that_refuses_its_first_mask_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "PATH", "/dev/null")
    with pytest.raises(OSError):
        device.DeviceBackend().create(0x5)


@pytest.mark.parametrize("backend", ONE_KERNEL_OBJECT)
@pytest.mark.parametrize(
    "operation",
    [
        lambda vpoll: vpoll.add_events(IN),
        lambda vpoll: vpoll.del_events(OUT),
        lambda vpoll: vpoll.set_events(IN),
    ],
    ids=["add a pending bit", "delete an unset bit", "set the same mask"],
)
def test_a_repeated_operation_is_a_new_edge(
    backend: str, operation: Callable[[VPoll], int]
) -> None:
    with VPoll(IN, backend=backend) as vpoll, select.epoll() as epoll:
        fd = vpoll.fileno()
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        assert epoll.poll(0) == [(fd, IN)]
        assert epoll.poll(0) == []
        operation(vpoll)
        assert epoll.poll(0) == [(fd, IN)]
        assert epoll.poll(0) == []


@pytest.mark.parametrize("backend", ONE_KERNEL_OBJECT)
def test_an_add_and_a_delete_that_nobody_saw_leave_no_event(backend: str) -> None:
    with VPoll(backend=backend) as vpoll, select.epoll() as epoll:
        epoll.register(vpoll, select.EPOLLIN | select.EPOLLET)
        vpoll.add_events(IN)
        vpoll.del_events(IN)
        assert epoll.poll(0) == []


@pytest.mark.parametrize("backend", ONE_KERNEL_OBJECT)
def test_looking_at_the_events_is_no_edge(backend: str) -> None:
    with VPoll(IN, backend=backend) as vpoll, select.epoll() as epoll:
        fd = vpoll.fileno()
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        assert epoll.poll(0) == [(fd, IN)]
        assert vpoll.events == IN
        assert epoll.poll(0) == []


@pytest.mark.parametrize("backend", ONE_KERNEL_OBJECT)
def test_a_forked_childs_operations_reach_its_parent(backend: str) -> None:
    with VPoll(OUT, backend=backend) as vpoll:
        fd = vpoll.fileno()

        def child() -> None:
            assert vpoll.add_events(IN | HUP) == IN | OUT | HUP
            assert vpoll.del_events(OUT) == IN | HUP

        in_child(child)
        assert by_poll(fd) == IN | HUP
        assert vpoll.events == IN | HUP
        assert vpoll.del_events(HUP) == IN


@pytest.mark.parametrize("backend", ONE_KERNEL_OBJECT)
def test_all_28_bits_are_kept_and_a_refused_mask_changes_nothing(backend: str) -> None:
    with VPoll(backend=backend) as vpoll:
        fd = vpoll.fileno()
        assert vpoll.set_events(KEPT) == KEPT
        assert by_epoll(fd) == KEPT & by_name(backend).exact
        assert vpoll.events == KEPT
        with pytest.raises(ValueError):
            vpoll.set_events(1 << 28)
        assert vpoll.events == KEPT


@pytest.mark.needs("efd_vpoll")
def test_a_read_returns_the_mask_and_leaves_it() -> None:
    with VPoll(IN | HUP, backend="eventfd") as vpoll:
        for _ in range(2):
            assert os.read(vpoll.fileno(), 8) == int(IN | HUP).to_bytes(8, sys.byteorder)
        assert by_poll(vpoll.fileno()) == IN | HUP
