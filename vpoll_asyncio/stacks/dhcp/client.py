"""The states of a client (RFC 2131, figure 5), given the time and what has arrived.

It has no socket, no clock and no thread: whoever drives it calls `tick` at `deadline` and
`receive` with each message, and does what they return.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import logging
import math
import random
from typing import Final

from .lease import Lease, read_lease
from .messages import Kind, Message, Option, decode, encode

__all__ = ["Action", "Bound", "Client", "Lost", "Probe", "Send", "State"]

_log = logging.getLogger(__name__)

# RFC 2131, 4.1: seconds until a message is sent again, doubled up to the second number,
# and by how much chance changes them.
_FIRST: Final = 4.0
_LONGEST: Final = 64.0
_CHANCE: Final = 1.0
# How often a REQUEST is sent before the client begins anew.
_REQUESTS: Final = 4
# RFC 2131, 4.4.5: the least time between two attempts to renew.
_RENEWALS: Final = 60.0
# A lease may be shorter than what makes sense: no message sooner than after this.
_LEAST: Final = 1.0
# RFC 5227, 1.1: how often it is asked whether somebody has an address.
_PROBES: Final = 3
# RFC 2131, 3.1, step 5: the least pause after an address that somebody had.
_DECLINED: Final = 10.0
_LARGEST_MESSAGE: Final = 1472

_WANTED: Final = bytes(
    (
        Option.MASK,
        # RFC 3442: before the routers.
        Option.ROUTES,
        Option.ROUTER,
        Option.DNS,
        Option.DOMAIN,
        Option.MTU,
        Option.SEARCH,
        Option.LEASE,
        Option.SERVER,
        Option.RENEW,
        Option.REBIND,
    )
)


class State(enum.Enum):
    """Of RFC 2131, 4.4, with the check of step 5 in 3.1; STOPPED is none of the RFC's."""

    STOPPED = "stopped"
    INIT = "init"
    SELECTING = "selecting"
    REQUESTING = "requesting"
    CHECKING = "checking"
    REBOOTING = "rebooting"
    BOUND = "bound"
    RENEWING = "renewing"
    REBINDING = "rebinding"


@dataclasses.dataclass(frozen=True)
class Send:
    """Send this from port 68 to port 67."""

    wire: bytes
    to: ipaddress.IPv4Address | None
    """The server; None for everybody, by broadcast."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """This lease is in force from now on, in place of one before."""

    lease: Lease


@dataclasses.dataclass(frozen=True)
class Lost:
    """The lease is no longer in force, its address not to be used any more."""

    lease: Lease
    why: str


@dataclasses.dataclass(frozen=True)
class Probe:
    """Ask by ARP who has this address (RFC 5227, 2.1); if anybody, call `Client.decline`."""

    address: ipaddress.IPv4Address


Action = Send | Bound | Lost | Probe


class Client:
    """The client of one interface; times are seconds of any clock that does not jump.

    Parameters:
    mac -- the interface's hardware address, from which its identifier is made
    hostname -- the name that servers are told, if any
    chance -- where identifiers of exchanges and pauses come from
    probe -- seconds in which others may object to an address that is new; 0 not to ask
    """

    def __init__(
        self,
        mac: bytes,
        hostname: str | None = None,
        chance: random.Random | None = None,
        *,
        probe: float = 0.0,
    ) -> None:
        self._mac = mac
        self._hostname = hostname
        self._chance = chance or random.SystemRandom()
        self.state = State.STOPPED
        self.lease: Lease | None = None
        """The lease in force."""
        self.deadline = math.inf
        """When `tick` is to be called."""
        self.sent: dict[Kind, int] = {}
        """How many messages of each kind were sent."""
        self._offer: Lease | None = None
        self._probe = probe
        self._checked: Lease | None = None
        self._xid = 0
        self._begun = 0.0
        self._asked = 0.0
        self._tries = 0
        self._refusals = 0
        self._renew_at = self._rebind_at = self._expires_at = math.inf

    def start(self, now: float) -> list[Action]:
        """Look for a server."""
        self._begun = now
        return self._discover(now)

    def stop(self) -> None:
        """Do nothing any more."""
        self.state = State.STOPPED
        self.deadline = math.inf

    def reboot(self, now: float) -> list[Action]:
        """The interface is up again, perhaps elsewhere: ask whether the lease still holds.

        As RFC 2131, 4.4.2 has it; meanwhile it does, and goes on when nobody answers.
        """
        if self.state is State.STOPPED:
            return []
        if self.lease is None or now >= self._expires_at:
            return [*self._lose("expired"), *self.start(now)]
        self.state = State.REBOOTING
        self._new_exchange()
        self._begun = self._asked = now
        return self._send_reboot(now)

    def release(self) -> list[Action]:
        """Give the lease back and stop."""
        lease, held = self.lease, self.state is not State.STOPPED
        self.stop()
        if lease is None or not held:
            return []
        self.lease = None
        self._new_exchange()
        wire = self._message(Kind.RELEASE, [], 0.0, lease, named_server=True)
        return [Send(wire, lease.server), Lost(lease, "released")]

    # Time.

    def tick(self, now: float) -> list[Action]:
        """Do what is due at `now`."""
        if now < self.deadline:
            return []
        match self.state:
            case State.INIT:
                return self.start(now)
            case State.SELECTING:
                return self._send_discover(now)
            case State.REQUESTING if self._tries < _REQUESTS:
                return self._send_request(now)
            case State.REQUESTING:
                return self._discover(now)
            case State.CHECKING:
                return self._check(now)
            case State.REBOOTING if now < self._expires_at and self._tries < _REQUESTS:
                return self._send_reboot(now)
            case State.REBOOTING:
                self.state = State.BOUND
                return self._tick_lease(now)
            case State.BOUND | State.RENEWING | State.REBINDING:
                return self._tick_lease(now)
            case _:
                self.deadline = math.inf
                return []

    def _tick_lease(self, now: float) -> list[Action]:
        if now >= self._expires_at:
            return [*self._lose("expired"), *self.start(now)]
        if now >= self._rebind_at:
            wanted, end = State.REBINDING, self._expires_at
        elif now >= self._renew_at:
            wanted, end = State.RENEWING, self._rebind_at
        else:
            self.deadline = self._renew_at
            return []
        if self.state is not wanted:
            self.state = wanted
            self._new_exchange()
            self._begun = self._asked = now
        self.deadline = min(now + max((end - now) / 2, _RENEWALS), end)
        lease = self.lease
        assert lease is not None
        wire = self._message(Kind.REQUEST, self._wishes(), now, lease)
        return [Send(wire, lease.server if wanted is State.RENEWING else None)]

    # What is sent.

    def _new_exchange(self) -> None:
        self._xid = self._chance.getrandbits(32)
        self._tries = 0

    def _wait_for_answer(self, now: float) -> None:
        pause = min(_FIRST * 2 ** min(self._tries, 8), _LONGEST)
        self.deadline = now + pause + self._chance.uniform(-_CHANCE, _CHANCE)
        self._tries += 1

    def _discover(self, now: float) -> list[Action]:
        self.state = State.SELECTING
        self._offer = self._checked = None
        self._new_exchange()
        return self._send_discover(now)

    def _send_discover(self, now: float) -> list[Action]:
        self._wait_for_answer(now)
        return [Send(self._message(Kind.DISCOVER, self._wishes(), now), None)]

    def _send_request(self, now: float) -> list[Action]:
        offer = self._offer
        assert offer is not None
        self._wait_for_answer(now)
        options = [
            (Option.ADDRESS, offer.address.ip.packed),
            (Option.SERVER, offer.server.packed),
            *self._wishes(),
        ]
        return [Send(self._message(Kind.REQUEST, options, now), None)]

    def _send_reboot(self, now: float) -> list[Action]:
        lease = self.lease
        assert lease is not None
        self._wait_for_answer(now)
        self.deadline = min(self.deadline, self._expires_at)
        options = [(Option.ADDRESS, lease.address.ip.packed), *self._wishes()]
        return [Send(self._message(Kind.REQUEST, options, now), None)]

    # Whether somebody has the address already.

    def _check(self, now: float) -> list[Action]:
        lease = self._checked
        assert lease is not None
        if self._tries == _PROBES:
            return self._bind(lease)
        self._tries += 1
        self.deadline = now + self._probe / _PROBES
        return [Probe(lease.address.ip)]

    def decline(self, now: float) -> list[Action]:
        """Somebody has the address that is asked for by `Probe`: tell the server, begin anew."""
        lease, self._checked = self._checked, None
        if self.state is not State.CHECKING or lease is None:
            return []
        self.state = State.INIT
        self.deadline = now + _DECLINED
        options = [
            (Option.ADDRESS, lease.address.ip.packed),
            (Option.SERVER, lease.server.packed),
        ]
        return [Send(self._message(Kind.DECLINE, options, now), None)]

    def _wishes(self) -> list[tuple[Option, bytes]]:
        found = [
            (Option.LONGEST, _LARGEST_MESSAGE.to_bytes(2, "big")),
            (Option.PARAMETERS, _WANTED),
        ]
        if self._hostname:
            found.append((Option.HOST_NAME, self._hostname.encode()))
        return found

    def _message(
        self,
        kind: Kind,
        options: list[tuple[Option, bytes]],
        now: float,
        lease: Lease | None = None,
        *,
        named_server: bool = False,
    ) -> bytes:
        self.sent[kind] = self.sent.get(kind, 0) + 1
        identifier = [(Option.CLIENT_ID, b"\1" + self._mac)]
        if named_server and lease is not None:
            identifier.append((Option.SERVER, lease.server.packed))
        return encode(
            kind,
            self._xid,
            self._mac,
            [*identifier, *options],
            seconds=max(0.0, now - self._begun),
            address=None if lease is None else lease.address.ip,
        )

    # What arrives.

    def receive(self, wire: bytes, now: float) -> list[Action]:
        """Take a message that has come to port 68 from port 67; any other is ignored."""
        message = decode(wire)
        if message is None or message.xid != self._xid or message.mac != self._mac:
            return []
        match message.kind:
            case Kind.OFFER if self.state is State.SELECTING:
                return self._take_offer(message, now)
            case Kind.ACK if self._asks(message):
                return self._take_ack(message, now)
            case Kind.NAK if self._asks(message):
                return self._take_refusal(message, now)
            case _:
                return []

    def _asks(self, message: Message) -> bool:
        """Return whether `message` may answer the REQUEST that was sent last."""
        if self.state is State.REQUESTING:
            return self._offer is not None and message.server == self._offer.server
        return self.state in (State.RENEWING, State.REBINDING, State.REBOOTING)

    def _take_offer(self, message: Message, now: float) -> list[Action]:
        offer = read_lease(message)
        if offer is None:
            return []
        self._offer = offer
        self.state = State.REQUESTING
        self._tries = 0
        self._asked = now
        return self._send_request(now)

    def _take_ack(self, message: Message, now: float) -> list[Action]:
        lease = read_lease(message)
        if lease is None:
            return []
        self._offer = None
        if not self._probe or (self.lease is not None and self.lease.address == lease.address):
            return self._bind(lease)
        lost = self._lose("given up for another address")
        self.state = State.CHECKING
        self._checked = lease
        self._tries = 0
        return [*lost, *self._check(now)]

    def _bind(self, lease: Lease) -> list[Action]:
        self.state = State.BOUND
        self._checked = None
        self._refusals = 0
        self.lease = lease
        self._renew_at = self._asked + max(lease.renew, _LEAST)
        self._rebind_at = max(self._asked + lease.rebind, self._renew_at)
        self._expires_at = max(self._asked + lease.lifetime, self._rebind_at)
        self.deadline = self._renew_at
        return [Bound(lease)]

    def _take_refusal(self, message: Message, now: float) -> list[Action]:
        text = message.options.get(Option.TEXT, b"").decode(errors="replace")
        _log.info("a DHCP server, %s, refuses: %r", message.server, text)
        lost = self._lose("refused by the server")
        # Two servers that refuse each other's addresses are not to be asked all the time.
        pause = min(2.0 ** (self._refusals - 1), _LONGEST) if self._refusals else 0.0
        self._refusals += 1
        self.state = State.INIT
        self.deadline = now + pause
        return [*lost, *self.tick(now)]

    def _lose(self, why: str) -> list[Action]:
        lease, self.lease = self.lease, None
        return [] if lease is None else [Lost(lease, why)]
