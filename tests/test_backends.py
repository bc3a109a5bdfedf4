"""Which backends there are, and which one a vpoll takes."""

from __future__ import annotations

import errno
import select

import pytest

from vpoll_asyncio import EventMask, VPoll, backends
from vpoll_asyncio.backends import BackendInfo, by_name, virtual
from vpoll_asyncio.events import KEPT, POLLFREE
from vpoll_helpers import KERNEL_BACKENDS, by_poll

pytestmark = pytest.mark.usefixtures("no_fd_leak")

HERE = {backend.name: backend for backend in backends()}


@pytest.fixture(autouse=True)
def without_a_choice_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPOLL_BACKEND", raising=False)


def test_backends_are_listed_fastest_first_with_a_reason_for_what_is_missing() -> None:
    names = list(HERE)
    assert names[0] == "virtual"
    assert names.index("eventfd") < names.index("device") < names.index("unixpair")
    assert names.index("unixpair") < names.index("tcppair")
    for backend in backends():
        assert backend.available == (not backend.why)


def test_exact_sets_are_as_published() -> None:
    assert HERE["virtual"].exact == KEPT
    assert HERE["eventfd"].exact == HERE["device"].exact == KEPT ^ POLLFREE
    assert HERE["unixpair"].exact == EventMask.IN | EventMask.OUT
    assert HERE["tcppair"].exact == EventMask.IN | EventMask.OUT | EventMask.PRI | EventMask.ERR


def test_backends_that_need_nothing_are_available_here() -> None:
    assert HERE["virtual"].available
    assert HERE["unixpair"].available
    assert HERE["tcppair"].available


@pytest.mark.parametrize(
    "need",
    [0, EventMask.IN, EventMask.IN | EventMask.OUT, EventMask.PRI, EventMask.OUT | EventMask.ERR],
)
def test_the_fastest_available_backend_that_covers_the_need_is_taken(need: int) -> None:
    fitting = [
        backend.name
        for backend in backends()
        if backend.available and backend.name != "virtual" and not need & ~backend.exact
    ]
    with VPoll(need=need) as vpoll:
        vpoll.fileno()
        assert vpoll.backend == fitting[0]
        assert vpoll.exact == HERE[fitting[0]].exact


def test_before_a_descriptor_is_asked_for_every_event_is_exact() -> None:
    with VPoll() as vpoll:
        assert vpoll.backend is None
        assert vpoll.exact == KEPT


def test_a_need_that_nothing_covers_says_what_each_backend_lacks() -> None:
    need = KEPT ^ POLLFREE
    covering = [
        b for b in backends() if b.available and b.name != "virtual" and not need & ~b.exact
    ]
    with VPoll(need=need) as vpoll:
        if covering:
            vpoll.fileno()
            assert vpoll.backend == covering[0].name
            return
        with pytest.raises(OSError, match=r"unixpair cannot show .*HUP.* exactly") as fault:
            vpoll.fileno()
        assert fault.value.errno == errno.ENOSYS
        assert "EFD_VPOLL" in str(fault.value)
        assert vpoll.backend is None
        assert vpoll.add_events(EventMask.HUP) == EventMask.HUP


def test_an_unknown_backend_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"no vpoll backend 'eventdf': expected one of .*unixpair"):
        VPoll(backend="eventdf")


@pytest.fixture(params=list(HERE))
def unavailable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BackendInfo:
    """One backend after the other: as it is where this machine lacks it, else made so."""
    info = HERE[str(request.param)]
    if info.available:
        why = "taken away by the test"
        monkeypatch.setattr(type(by_name(info.name)), "missing", lambda backend: why)
        info = info._replace(available=False, why=why)
    return info


def test_a_named_backend_that_is_not_available_is_refused_with_the_reason(
    unavailable: BackendInfo,
) -> None:
    with pytest.raises(OSError, match=f"{unavailable.name!r} is not available: ") as fault:
        VPoll(backend=unavailable.name)
    assert fault.value.errno == errno.ENOSYS
    assert unavailable.why in str(fault.value)


@pytest.mark.parametrize("name", KERNEL_BACKENDS)
def test_the_environment_names_the_backend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("VPOLL_BACKEND", name)
    with VPoll(EventMask.IN) as vpoll:
        assert by_poll(vpoll.fileno()) & EventMask.IN
        assert vpoll.backend == name


def test_a_backend_given_by_name_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VPOLL_BACKEND", "tcppair")
    with VPoll(backend="unixpair") as vpoll:
        vpoll.fileno()
        assert vpoll.backend == "unixpair"


def test_a_wrong_name_in_the_environment_is_reported_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VPOLL_BACKEND", "eventdf")
    with VPoll() as vpoll:
        with pytest.raises(ValueError, match="VPOLL_BACKEND: no vpoll backend 'eventdf'"):
            vpoll.fileno()
        monkeypatch.setenv("VPOLL_BACKEND", "")
        assert vpoll.fileno() >= 0


def test_a_missing_backend_in_the_environment_is_reported_as_such(
    monkeypatch: pytest.MonkeyPatch, unavailable: BackendInfo
) -> None:
    monkeypatch.setenv("VPOLL_BACKEND", unavailable.name)
    with VPoll() as vpoll:
        with pytest.raises(OSError, match="VPOLL_BACKEND: ") as fault:
            vpoll.fileno()
        assert fault.value.errno == errno.ENOSYS
        assert unavailable.why in str(fault.value)


def test_a_virtual_number_is_none_that_the_kernel_knows() -> None:
    with VPoll(backend="virtual") as vpoll, select.epoll() as epoll:
        number = vpoll.fileno()
        assert number >= 1 << 30
        with pytest.raises(OSError) as fault:
            epoll.register(number, select.EPOLLIN)
        assert fault.value.errno == errno.EBADF
        assert by_poll(number) == select.POLLNVAL


def test_a_virtual_number_leads_to_the_handle_that_has_it_until_that_is_closed() -> None:
    with VPoll(backend="virtual") as vpoll:
        twin = vpoll.dup()
        number = twin.fileno()
        assert vpoll.fileno() != number
        assert virtual.lookup(number) is twin
        twin.close()
        assert virtual.lookup(number) is None
        assert virtual.lookup(vpoll.fileno()) is vpoll


def test_a_virtual_vpoll_takes_every_event() -> None:
    with VPoll(backend="virtual") as vpoll:
        vpoll.fileno()
        assert vpoll.set_events(KEPT) == KEPT
        assert vpoll.del_events(EventMask.HUP) == KEPT ^ EventMask.HUP
        assert vpoll.events == KEPT ^ EventMask.HUP
