"""Counters of the protocols: what ``netstat -s`` shows of a kernel."""

from __future__ import annotations

from typing import Any, TypedDict, cast

__all__ = ["IcmpStats", "IpStats", "SocketStats", "Stats", "TcpStats", "UdpStats", "read_stats"]


class IpStats(TypedDict):
    """Packets of IPv4, or of IPv6.  What the stack sends to itself counts, too."""

    InReceives: int
    """Packets and fragments that came in."""
    InHdrErrors: int
    """Lengths, checksums or options that do not fit."""
    InAddrErrors: int
    """For other hosts, or with addresses that may not come from outside."""
    InUnknownProtos: int
    """Of a protocol that nobody here speaks."""
    InDelivers: int
    """Packets for this host that were whole."""
    OutRequests: int
    """Packets sent."""
    OutNoRoutes: int
    """Connections and datagrams that no route was for."""
    ReasmReqds: int
    """Fragments that came in."""
    ReasmOKs: int
    """Packets put together."""
    FragOKs: int
    """Packets cut into fragments."""
    FragCreates: int
    """Fragments sent."""


class IcmpStats(TypedDict):
    """Messages of ICMP, or of ICMPv6: all, and by type.

    ``/proc/net/snmp6`` writes EchoReplies where these names have EchoReps.
    """

    InMsgs: int
    InErrors: int
    """Shorter than a message."""
    InDestUnreachs: int
    InTimeExcds: int
    InEchos: int
    InEchoReps: int
    OutMsgs: int
    OutDestUnreachs: int
    OutTimeExcds: int
    OutEchos: int
    OutEchoReps: int


class TcpStats(TypedDict):
    """Segments and connections of TCP, over both families."""

    ActiveOpens: int
    """Connections begun here."""
    PassiveOpens: int
    """Connections accepted by the stack, whether or not by the program yet."""
    AttemptFails: int
    """Connections that ended before they were made."""
    EstabResets: int
    """Connections that ended without both sides' FINs."""
    CurrEstab: int
    """Connections at the moment: ESTABLISHED, CLOSE-WAIT."""
    InSegs: int
    """Segments that came in, bad ones included."""
    OutSegs: int
    """Segments sent, those sent again included."""
    RetransSegs: int
    """Segments sent again."""
    InErrs: int
    """Lengths, options or checksums that do not fit."""
    OutRsts: int
    """Resets sent."""
    InCsumErrors: int
    """Of `InErrs`, those with a wrong checksum."""


class UdpStats(TypedDict):
    """Datagrams of UDP over IPv4, or over IPv6."""

    InDatagrams: int
    """Queued for a program; each copy of a multicast counts."""
    NoPorts: int
    """For a port that nobody has, which was answered."""
    InErrors: int
    """Bad ones, and those of `RcvbufErrors`."""
    OutDatagrams: int
    """Datagrams sent."""
    RcvbufErrors: int
    """Dropped since a socket's receive buffer was full."""
    InCsumErrors: int
    """Of `InErrors`, those with a wrong checksum."""


class SocketStats(TypedDict):
    """Sockets at the moment, as ``/proc/net/sockstat`` tells of them, and what they hold."""

    tcp: int
    """Accepted or made by the program."""
    tcp_tw: int
    """Connections in TIME-WAIT, which have no socket any more."""
    udp: int
    raw: int
    ping: int
    receive_bytes: int
    """Waiting to be received, of datagrams with what keeping them costs."""
    send_bytes: int
    """Sent by the program and not acknowledged yet."""


class Stats(TypedDict):
    """All counters, by the names that ``/proc/net/snmp`` has for the protocols."""

    Ip: IpStats
    Ip6: IpStats
    Icmp: IcmpStats
    Icmp6: IcmpStats
    Tcp: TcpStats
    Udp: UdpStats
    Udp6: UdpStats
    Sockets: SocketStats


def read_stats(lib: Any, ffi: Any) -> Stats:
    """Return the counters of the C side.  May be called from any thread."""
    raw = ffi.new("struct vp_stats *")
    lib.vp_stats(raw)
    found = {
        protocol: {name: int(getattr(getattr(raw, protocol), name)) for name, _ in kind.type.fields}
        for protocol, kind in ffi.typeof("struct vp_stats").fields
    }
    return cast(Stats, found)
