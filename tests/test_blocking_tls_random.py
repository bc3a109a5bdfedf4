"""Random programs of TLS calls: over a memory stack's sockets the outcomes are the kernel's."""

from __future__ import annotations

import errno
import select
import ssl
import sys
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from blocking_helpers import NETWORKS, client_context, connected, network_of, server_context
from memory_helpers import BOUND, ask, until
from scale import LONG

# Step by step.

TIOCOUTQ = 0x5411

SIDES = st.sampled_from(["client", "server"])
STEPS = st.lists(
    st.one_of(
        st.tuples(SIDES, st.just("shake"), st.just(0)),
        st.tuples(SIDES, st.just("shake"), st.just(0)),
        st.tuples(SIDES, st.just("send"), st.sampled_from([0, 1, 500, 3000])),
        st.tuples(SIDES, st.just("recv"), st.sampled_from([0, 1, 400, 65536])),
        st.tuples(SIDES, st.just("unwrap"), st.just(0)),
        st.tuples(SIDES, st.just("close"), st.just(0)),
    ),
    max_size=14,
)


def act(sock: ssl.SSLSocket, what: str, amount: int) -> object:
    """The outcome of one step, as it is to be on every network."""
    try:
        match what:
            case "shake":
                sock.do_handshake()
                return None
            case "send":
                return sock.send(bytes(amount))
            case "recv":
                # After an unwrap in the middle of it what comes is encrypted, with other keys.
                data = sock.recv(amount)
                return len(data), not any(data)
            case "unwrap":
                return sock.unwrap() is sock
            case _:
                sock.close()
                return None
    except (ssl.SSLEOFError, ssl.SSLSyscallError):
        # Which of the two it is depends on whether OpenSSL asks a descriptor or a buffer.
        return ("SSLEOFError",)
    except ssl.SSLError as error:
        return type(error).__name__, error.reason, error.errno
    except OSError as error:
        if sys.version_info < (3, 13) and error.errno in (errno.EPIPE, errno.ECONNRESET):
            # Over the kernel's sockets it is an SSLSyscallError or SSLEOFError there.
            return ("SSLEOFError",)
        return "OSError", error.errno
    except (ValueError, AttributeError) as error:
        return type(error).__name__, str(error).partition("<")[0]


def settle(sock: ssl.SSLSocket, peer: ssl.SSLSocket, what: str) -> None:
    """Wait until the kernel has carried what `sock` has sent to the other end."""
    if sock.fileno() >= 0:
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        # Both ends are shut, or there was a reset: nothing more is carried.
        until(lambda: poll.poll(0) or not ask(sock, TIOCOUTQ))
    if what == "close" and peer.fileno() >= 0:
        poll = select.poll()
        poll.register(peer.fileno(), select.POLLRDHUP)
        assert poll.poll(1000 * BOUND)


def readable(sock: ssl.SSLSocket) -> bool:
    return sock.fileno() >= 0 and bool(select.select([sock], [], [], 0)[0])


FATAL = ("OSError", "SSLError", "SSLEOFError")
"""After these no operation should follow, SSL_get_error(3) says: `version` is not compared."""


def is_over(outcome: object) -> bool:
    """Whether nothing more of the socket is compared: a write was repeated with other data."""
    return isinstance(outcome, tuple) and "BAD_LENGTH" in outcome


def observe(network: str, version: ssl.TLSVersion, steps: list[Any]) -> list[object]:
    seen: list[object] = []
    with network_of(network):
        ours, theirs = client_context(), server_context()
        ours.minimum_version = ours.maximum_version = version
        plain = connected()
        for sock in plain:
            sock.setblocking(False)
        client = ours.wrap_socket(
            plain[0], server_hostname="localhost", do_handshake_on_connect=False
        )
        server = theirs.wrap_socket(plain[1], server_side=True, do_handshake_on_connect=False)
        ends = {"client": client, "server": server}
        shaken = False
        broken: set[ssl.SSLSocket] = set()
        over: set[ssl.SSLSocket] = set()
        with client, server:
            for side, what, amount in steps:
                shaken = shaken or None not in (client.version(), server.version())
                # How far a handshake has come whose peer is gone is OpenSSL's own affair: over
                # buffers it does not hear of it until the flight is written.
                if what == "close" and not shaken:
                    continue
                sock = ends[side]
                if sock in over and what != "close":
                    continue
                peer = server if sock is client else client
                outcome = act(sock, what, amount)
                if is_over(outcome):
                    over.add(sock)
                if network == "kernel":
                    settle(sock, peer, what)
                if what == "unwrap" or (isinstance(outcome, tuple) and outcome[0] in FATAL):
                    broken.add(sock)
                state = [
                    (end in broken or end.version(), end.pending(), readable(end))
                    for end in (client, server)
                ]
                seen.append((side, what, amount, outcome, state))
    return seen


# Shrinking a program that differs takes minutes on the kernel's side.
PHASES = [phase for phase in Phase if phase is not Phase.shrink]

SHAKE = [(side, "shake", 0) for side in ("client", "server", "client", "server")]


def program(text: str) -> list[tuple[str, str, int]]:
    """``"client send 1, server close"`` as steps."""
    steps = []
    for step in text.split(", "):
        side, what, *amount = step.split()
        steps.append((side, what, int(amount[0]) if amount else 0))
    return steps


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "server unwrap, server close, client recv 1, client send 500, client send 3000",
            id="send after the close notice of a peer that has gone",
        ),
        pytest.param(
            "server send 3000, client recv 400, client send 1, server close, client unwrap",
            id="unwrap at a peer that has gone reads nothing",
        ),
        pytest.param(
            "client send 1, server close, client send 5, client unwrap, client unwrap",
            id="unwrap after a send that failed",
        ),
        pytest.param(
            "server close, client send 1, client send 1, client unwrap, client send 1",
            id="send after an unwrap that failed",
        ),
        pytest.param("server close, client unwrap, client send 1", id="unwrap without an answer"),
    ],
)
def test_what_comes_first_once_the_peer_has_gone(text: str, version: ssl.TLSVersion) -> None:
    steps = SHAKE + program(text)
    kernels, ours = (observe(network, version, steps) for network in NETWORKS)
    assert ours == kernels


# What is rare is looked for where there is time; else the same programs each time.
@settings(max_examples=500 if LONG else 60, derandomize=not LONG, deadline=None, phases=PHASES)
@given(
    version=st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
    shaken=st.booleans(),
    steps=STEPS,
)
def test_random_programs_have_the_kernels_outcomes(
    version: ssl.TLSVersion, shaken: bool, steps: list[Any]
) -> None:
    program = SHAKE + steps if shaken else steps
    kernels, ours = (observe(network, version, program) for network in NETWORKS)
    for kernel, own in zip(kernels, ours, strict=True):
        assert own == kernel
