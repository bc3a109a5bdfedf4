"""The rows: who is measured at what, which ratios are reported, and what they should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .contenders import Contender

Target = tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """One ratio of a row, or one absolute value.

    ours, base -- keys of the row's contenders; without a base the value itself is reported
    metric -- which of the values that the scenario measures
    kind -- ``"cost"``: time by time, less is better; ``"rate"``: the inverse, more is
        better; without a base ``"bytes"``, less is better, and ``"MB/s"``
    target -- what it should be at most, or at least, pure Python and accelerated; None
        where it only informs
    """

    ours: str
    base: str
    metric: str
    kind: str
    target: Target = None


@dataclass(frozen=True)
class Row:
    """One thing measured.

    sizes -- arguments of the scenario, the same for all contenders: a sample should take
        some 20 ms, so that its neighbours meet the same weather
    repeatable -- whether a second sample would differ from the first
    wall -- whether its clock is the wall's whatever is chosen (`clock`)
    """

    name: str
    title: str
    scenario: str
    contenders: Mapping[str, Contender]
    comparisons: tuple[Comparison, ...]
    sizes: Mapping[str, object] = field(default_factory=dict)
    repeatable: bool = True
    wall: bool = False


def rates(ours: str, metric: str, **targets: Target) -> tuple[Comparison, ...]:
    """Compare `ours` with each base of `targets`, ``_`` in their names for a space."""
    return tuple(
        Comparison(ours, base.replace("_", " "), metric, "rate", target)
        for base, target in targets.items()
    )


PEERS = {
    "asyncio socketpair": Contender("asyncio", "socketpair"),
    "asyncio tcp": Contender("asyncio", "tcp"),
    "uvloop socketpair": Contender("uvloop", "socketpair"),
    "uvloop tcp": Contender("uvloop", "tcp"),
}
MEMORY = {
    "EventLoop memory": Contender("EventLoop", "memory"),
    "UvloopEventLoop memory": Contender("UvloopEventLoop", "memory"),
}
INPROC = {
    "asyncio zmq": Contender("asyncio", "inproc"),
    "uvloop zmq": Contender("uvloop", "inproc"),
}
TAP = {
    "EventLoop lwip": Contender("EventLoop", "tap"),
    "UvloopEventLoop lwip": Contender("UvloopEventLoop", "tap"),
    "asyncio kernel": Contender("asyncio", "loopback"),
    "uvloop kernel": Contender("uvloop", "loopback"),
}
BATCH = 100


def _vpoll(loop: str, batch: int, polled: bool = True) -> Contender:
    return Contender(loop, "vpoll", {"batch": batch, "polled": polled})


def _event_rows() -> list[Row]:
    rows = []
    for batch, name, words, pure, fast in (
        (1, "one", "one a turn", (0.80, 0.40), (0.85, 0.55)),
        (BATCH, "batch", f"{BATCH} a turn", (0.45, 0.25), (0.85, 0.55)),
    ):
        rows.append(
            Row(
                f"event-{name}",
                f"event: set, reader runs, clear; {words}",
                "event",
                {
                    "EventLoop, polled every turn": _vpoll("EventLoop", batch),
                    "EventLoop, polls spared": _vpoll("EventLoop", batch, polled=False),
                    "asyncio call_soon": Contender("asyncio", "call_soon", {"batch": batch}),
                    "asyncio eventfd": Contender("asyncio", "eventfd", {"batch": batch}),
                },
                (
                    Comparison(
                        "EventLoop, polled every turn", "asyncio call_soon", "event", "cost", pure
                    ),
                    Comparison("EventLoop, polls spared", "asyncio call_soon", "event", "cost"),
                    Comparison("EventLoop, polled every turn", "asyncio eventfd", "event", "cost"),
                ),
                sizes={"events": 10_000},
            )
        )
        rows.append(
            Row(
                f"event-uvloop-{name}",
                f"event on uvloop: set, reader runs, clear; {words}",
                "event",
                {
                    "UvloopEventLoop": _vpoll("UvloopEventLoop", batch),
                    "uvloop eventfd": Contender("uvloop", "eventfd", {"batch": batch}),
                    "uvloop call_soon": Contender("uvloop", "call_soon", {"batch": batch}),
                },
                (
                    Comparison("UvloopEventLoop", "uvloop eventfd", "event", "cost", fast),
                    Comparison("UvloopEventLoop", "uvloop call_soon", "event", "cost"),
                ),
                sizes={"events": 6_000},
            )
        )
    return rows


def _thread_rows() -> list[Row]:
    contenders = {
        f"{loop} {via}": Contender(loop, via)
        for loop in ("EventLoop", "UvloopEventLoop")
        for via in ("vpoll", "call_soon_threadsafe")
    }

    def compared(metric: str, target: Target) -> tuple[Comparison, ...]:
        return tuple(
            Comparison(f"{loop} vpoll", f"{loop} call_soon_threadsafe", metric, "cost", target)
            for loop in ("EventLoop", "UvloopEventLoop")
        )

    return [
        Row(
            "thread-flood",
            "set from another thread as fast as it can, up to the last callback",
            "flood",
            contenders,
            compared("event", (1.1, 1.1)),
            sizes={"events": 2_000},
            wall=True,
        ),
        Row(
            "thread-wake",
            "set from another thread while the loop sleeps, until the callback",
            "wake",
            contenders,
            compared("median", (1.1, 1.1)) + compared("p99", (1.1, 1.1)),
            sizes={"wakes": 200},
            wall=True,
        ),
    ]


def _watched_rows() -> list[Row]:
    many, few = 1_000_000, 1_000
    rows = []
    for via, words in (("add_reader", "readers"), ("register", "VPollSelector.register")):
        contenders = {
            f"{total:,}": Contender("EventLoop", via, {"total": total}, f"{total:,}")
            for total in (many, few)
        }
        rows.append(
            Row(
                f"watched-{via.replace('_', '-')}",
                f"10^6 vpolls watched by {words}, 100 active, beside 10^3",
                "watched",
                contenders,
                (
                    Comparison(f"{many:,}", f"{few:,}", "event", "cost", (1.3, 1.2)),
                    Comparison(f"{many:,}", "", "bytes", "bytes", (600, 400)),
                ),
                sizes={"events": 10_000, "active": 100},
            )
        )
    return rows


def _data_rows() -> list[Row]:
    return [
        Row(
            "echo",
            "protocols, echo of 64 bytes",
            "echo",
            MEMORY | PEERS,
            rates(
                "EventLoop memory",
                "echo",
                uvloop_socketpair=(3.0, 5.0),
                uvloop_tcp=(5.0, 9.0),
                asyncio_socketpair=None,
                asyncio_tcp=None,
            )
            + rates(
                "UvloopEventLoop memory",
                "echo",
                uvloop_socketpair=(3.0, 5.0),
                uvloop_tcp=(5.0, 9.0),
            ),
            sizes={"messages": 1_000},
        ),
        Row(
            "streams",
            "asyncio's streams, echo of 64 bytes",
            "streams",
            MEMORY | PEERS | INPROC,
            rates(
                "EventLoop memory",
                "echo",
                uvloop_socketpair=(1.2, 1.5),
                asyncio_socketpair=None,
                uvloop_tcp=None,
                asyncio_zmq=None,
            )
            + rates(
                "UvloopEventLoop memory", "echo", uvloop_socketpair=(1.2, 1.5), uvloop_zmq=None
            ),
            sizes={"messages": 500},
        ),
        Row(
            "bulk",
            "protocols, writes of 64 KiB in one direction",
            "bulk",
            MEMORY | PEERS,
            rates(
                "EventLoop memory",
                "byte",
                uvloop_socketpair=(3.0, 5.0),
                asyncio_socketpair=None,
                uvloop_tcp=None,
            )
            + rates("UvloopEventLoop memory", "byte", uvloop_socketpair=(3.0, 5.0)),
            sizes={"megabytes": 40},
        ),
    ]


def _connection_rows() -> list[Row]:
    tcp = {key: PEERS[key] for key in ("asyncio tcp", "uvloop tcp")}
    tls_target = (1.0, 1.2)
    return [
        Row(
            "connections",
            "connections opened, used once and closed",
            "connections",
            MEMORY | tcp,
            rates("EventLoop memory", "connection", asyncio_tcp=(4.0, 6.0), uvloop_tcp=None)
            + rates("UvloopEventLoop memory", "connection", asyncio_tcp=(4.0, 6.0)),
            sizes={"count": 40},
        ),
        Row(
            "connection-memory",
            "memory of an open connection, both ends with transports and protocols",
            "connection_memory",
            MEMORY | tcp,
            tuple(
                Comparison(key, "", "bytes", "bytes", target)
                for key, target in (
                    ("EventLoop memory", (4096.0, 3072.0)),
                    ("UvloopEventLoop memory", (4096.0, 3072.0)),
                    ("asyncio tcp", None),
                )
            ),
            sizes={"count": 1_000},
            repeatable=False,
        ),
        Row(
            "tls-bulk",
            "TLS, writes of 64 KiB in one direction",
            "bulk",
            MEMORY | tcp,
            rates("EventLoop memory", "byte", asyncio_tcp=tls_target, uvloop_tcp=None)
            + rates("UvloopEventLoop memory", "byte", asyncio_tcp=tls_target),
            sizes={"megabytes": 6, "tls": True},
        ),
        Row(
            "tls-handshakes",
            "TLS, connections with a full handshake",
            "handshakes",
            MEMORY | tcp,
            rates("EventLoop memory", "handshake", asyncio_tcp=tls_target, uvloop_tcp=None)
            + rates("UvloopEventLoop memory", "handshake", asyncio_tcp=tls_target),
            sizes={"count": 6},
        ),
    ]


def _kernel_rows() -> list[Row]:
    return [
        Row(
            f"kernel-echo-{pairs}",
            f"the kernel's TCP on our loop, echo of 64 bytes, {pairs:,} at once",
            "echo",
            {"EventLoop tcp": Contender("EventLoop", "tcp"), "asyncio tcp": PEERS["asyncio tcp"]},
            (Comparison("EventLoop tcp", "asyncio tcp", "echo", "cost", (1.05, 1.0)),),
            sizes={"pairs": pairs, "messages": max(1000, 2 * pairs)},
        )
        for pairs in (1, 100, 1000)
    ]


def _lwip_rows() -> list[Row]:
    rows = [
        Row(
            f"lwip-tap-echo-{pairs}",
            f"lwIP over TAP, echo of 64 bytes with a client outside, {pairs} at once",
            "remote_echo",
            TAP,
            rates("EventLoop lwip", "echo", asyncio_kernel=first)
            + rates("UvloopEventLoop lwip", "echo", asyncio_kernel=second, uvloop_kernel=None),
            sizes={"messages": 600, "pairs": pairs},
            wall=True,
        )
        for pairs, first, second in ((1, (0.9, 1.0), (1.0, 1.3)), (16, None, None))
    ]
    connections = Row(
        "lwip-tap-connections",
        "lwIP over TAP, connections from a client outside, used once and closed",
        "remote_connections",
        TAP,
        rates("EventLoop lwip", "connection", asyncio_kernel=(1.4, 2.0))
        + rates(
            "UvloopEventLoop lwip", "connection", asyncio_kernel=(1.4, 2.0), uvloop_kernel=None
        ),
        sizes={"count": 50},
        wall=True,
    )
    bulk = Row(
        "lwip-bulk",
        "lwIP in process, writes of 64 KiB in one direction",
        "bulk",
        {
            "EventLoop lwip": Contender("EventLoop", "lwip"),
            "UvloopEventLoop lwip": Contender("UvloopEventLoop", "lwip"),
            "asyncio tcp": PEERS["asyncio tcp"],
        },
        tuple(
            Comparison(f"{loop} lwip", "", "byte", "MB/s", (800.0, 1200.0))
            for loop in ("EventLoop", "UvloopEventLoop")
        )
        + rates("EventLoop lwip", "byte", asyncio_tcp=None),
        sizes={"megabytes": 20},
    )
    return [*rows, connections, bulk]


ROWS: tuple[Row, ...] = (
    *_event_rows(),
    *_thread_rows(),
    *_watched_rows(),
    *_data_rows(),
    *_connection_rows(),
    *_kernel_rows(),
    *_lwip_rows(),
)
