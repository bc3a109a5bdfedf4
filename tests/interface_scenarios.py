"""What a host with two interfaces does, lwIP as the kernel.

Each scenario is one behaviour.  `test_lwip_interfaces` runs them on lwIP, and on the kernel of a
network namespace, which is the specification.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from interface_hosts import (
    MACS,
    NAMES,
    NEAR4,
    NEAR6,
    NEAR_LOCAL,
    NEAR_MACS,
    OWN4,
    OWN6,
    Host,
    asks_for,
    source_of,
    udp_to,
)
from lwip_frames import ACK, SYN, arp, ethernet, icmp, packed, parse_tcp, tcp, udp
from memory_helpers import failure

FAR4 = "10.9.0.1"


def is_syn_ack(one: bytes) -> bool:
    segment = parse_tcp(one)
    return segment is not None and segment["flags"] == SYN | ACK


def each_interface_answers_in_its_own_network(host: Host) -> None:
    for side in (0, 1):
        for near, own in ((NEAR4, OWN4), (NEAR6, OWN6)):
            assert source_of(host.reply_to(side, near[side], own[side])) == own[side]


def an_address_is_reached_through_the_other_interface(host: Host) -> None:
    """A host's addresses are the host's, and no interface's."""
    for near, own in ((NEAR4, OWN4), (NEAR6, OWN6)):
        assert source_of(host.reply_to(0, near[0], own[1])) == own[1]


def arp_is_answered_for_the_other_interface(host: Host) -> None:
    """As with arp_ignore 0: by the interface that is asked, with its own hardware address."""
    question = arp(1, NEAR4[0], OWN4[1], src_mac=NEAR_MACS[0])
    host.send_frame(0, ethernet(question, 0x0806, dst=b"\xff" * 6, src=NEAR_MACS[0]))
    answer = host.sent(0, lambda one: one[12:14] == b"\x08\x06" and one[20:22] == b"\0\2")
    assert (answer[:6], answer[22:28]) == (NEAR_MACS[0], MACS[0])
    assert answer[28:32] == packed(OWN4[1])
    assert host.never(1, lambda one: one[20:22] == b"\0\2")


def nothing_is_forwarded(host: Host) -> None:
    for near in (NEAR4, NEAR6):
        host.send(0, udp((near[0], 9), (near[1], 9), b"through"))
        assert host.never(1, lambda one: one.endswith(b"through"))


def a_sender_has_the_address_of_its_interface(host: Host) -> None:
    for family, near, own in (
        (socket.AF_INET, NEAR4, OWN4),
        (socket.AF_INET6, NEAR6, OWN6),
    ):
        sender = host.datagrams(family)
        for side in (0, 1):
            sender.sendto(b"hello", (near[side], 9))
            sent = host.sent(side, udp_to(near[side], b"hello"))
            assert (source_of(sent), sent[6:12]) == (own[side], MACS[side])
            connected = host.datagrams(family)
            connected.connect((near[side], 9))
            assert connected.getsockname()[0] == own[side]


def the_longest_prefix_chooses_the_interface(host: Host) -> None:
    host.host.add_route("10.9.0.0/16", NEAR4[0], NAMES[0])
    host.host.add_route("10.9.8.0/24", NEAR4[1], NAMES[1])
    sender = host.datagrams()
    for side, to in ((0, "10.9.7.1"), (1, "10.9.8.1"), (0, "10.9.9.1")):
        sender.sendto(b"far", (to, 9))
        sent = host.sent(side, udp_to(to, b"far"))
        assert (sent[:6], source_of(sent)) == (NEAR_MACS[side], OWN4[side])


def a_route_into_ones_own_network_counts(host: Host) -> None:
    host.host.add_route("10.0.0.128/25", NEAR4[0], NAMES[0])
    host.datagrams().sendto(b"round", ("10.0.0.200", 9))
    assert host.sent(0, udp_to("10.0.0.200", b"round"))
    assert host.never(0, asks_for("10.0.0.200"))


def an_address_of_ones_own_goes_out_by_the_route(host: Host) -> None:
    """Routes are chosen by where to, whatever the address that the sender is bound to."""
    sender = host.datagrams()
    sender.bind((OWN4[0], 0))
    sender.sendto(b"asymmetric", (NEAR4[1], 9))
    assert source_of(host.sent(1, udp_to(NEAR4[1], b"asymmetric"))) == OWN4[0]


def a_broadcast_goes_out_where_its_source_is(host: Host) -> None:
    host.host.add_route("0.0.0.0/0", NEAR4[0], NAMES[0])
    for side in (0, 1):
        sender = host.datagrams()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.bind((OWN4[side], 0))
        sender.sendto(b"to all", ("255.255.255.255", 9))
        assert source_of(host.sent(side, udp_to("255.255.255.255", b"to all"))) == OWN4[side]
    sender = host.datagrams()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.sendto(b"of nobody", ("255.255.255.255", 9))
    assert source_of(host.sent(0, udp_to("255.255.255.255", b"of nobody"))) == OWN4[0]
    assert host.never(1, lambda one: one.endswith(b"of nobody"))


def the_name_of_the_device_is_told(host: Host) -> None:
    sock = host.datagrams()
    option = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE)
    assert sock.getsockopt(*option, 16) == b""
    sock.setsockopt(*option, b"vde1")
    assert sock.getsockopt(*option, 16) == b"vde1\0"
    sock.setsockopt(*option, b"lo\0trailing")
    assert sock.getsockopt(*option, 16) == b"lo\0"
    assert failure(sock.setsockopt, *option, b"vde7") == errno.ENODEV
    assert sock.getsockopt(*option, 16) == b"lo\0"
    sock.setsockopt(*option, b"")
    assert sock.getsockopt(*option, 16) == b""


def a_device_hears_its_own_network_only(host: Host) -> None:
    on_second = host.datagrams(device=NAMES[1])
    on_second.bind(("0.0.0.0", 700))
    host.send(0, udp((NEAR4[0], 9), (OWN4[0], 700), b"first network"))
    host.send(0, udp((NEAR4[0], 9), (OWN4[1], 700), b"second address"))
    host.send(1, udp((NEAR4[1], 9), (OWN4[1], 700), b"second network"))
    host.settle()
    assert on_second.recvfrom(100) == (b"second network", (NEAR4[1], 9))
    assert failure(on_second.recv, 100) == errno.EAGAIN


def devices_share_a_port(host: Host) -> None:
    sockets = [host.datagrams(device=name) for name in NAMES]
    for side, sock in enumerate(sockets):
        sock.bind(("0.0.0.0", 700))
        host.send(side, udp((NEAR4[side], 9), (OWN4[side], 700), b"%d" % side))
    host.settle()
    assert [sock.recv(10) for sock in sockets] == [b"0", b"1"]
    assert failure(host.datagrams(device=NAMES[0]).bind, ("0.0.0.0", 700)) == errno.EADDRINUSE


def a_device_sends_into_its_network_without_a_route(host: Host) -> None:
    """ip_route_output_key_hash_rcu(): the other side is taken for a neighbour."""
    for side in (1, 0):
        sender = host.datagrams(device=NAMES[side])
        sender.sendto(b"%d" % side, (FAR4, 9))
        sent = host.sent(side, udp_to(FAR4, b"%d" % side))
        assert (source_of(sent), sent[:6]) == (OWN4[side], NEAR_MACS[side])
    assert failure(host.datagrams().sendto, b"x", (FAR4, 9)) == errno.ENETUNREACH


def a_device_takes_its_own_route(host: Host) -> None:
    host.host.add_route("10.9.0.0/16", NEAR4[0], NAMES[0])
    host.host.add_address(NAMES[1], "10.2.0.1/24")
    host.host.add_route("10.9.0.0/17", "10.2.0.254", NAMES[1])
    for side, source in ((0, OWN4[0]), (1, "10.2.0.1")):
        sender = host.datagrams(device=NAMES[side])
        sender.sendto(b"%d" % side, (FAR4, 9))
        assert source_of(host.sent(side, udp_to(FAR4, b"%d" % side))) == source


def the_same_neighbour_is_on_both_sides(host: Host) -> None:
    """Networks may have the same plan of addresses: the device tells them apart."""
    host.host.add_address(NAMES[1], "10.0.0.2/24")
    for side in (0, 1, 0):
        sender = host.datagrams(device=NAMES[side])
        sender.sendto(b"which", (NEAR4[0], 9))
        sent = host.sent(side, udp_to(NEAR4[0], b"which"))
        assert (sent[:6], source_of(sent)) == (NEAR_MACS[side], ("10.0.0.1", "10.0.0.2")[side])
        host.forget()


def a_listener_of_a_device_is_reached_through_it_only(host: Host) -> None:
    first, second = (host.open(socket.SOCK_STREAM) for _ in NAMES)
    for name, listener in ((NAMES[0], first), (NAMES[1], second)):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        listener.bind(("0.0.0.0", 80))
        listener.listen()
    for side in (0, 1):
        host.send(side, tcp((NEAR4[side], 999), (OWN4[side], 80), SYN, seq=7))
        answer = parse_tcp(host.sent(side, is_syn_ack))
        assert answer is not None
        ack = int(answer["seq"]) + 1
        host.send(side, tcp((NEAR4[side], 999), (OWN4[side], 80), ACK, seq=8, ack=ack))
    host.settle()
    for side, listener in enumerate((first, second)):
        accepted, peer = listener.accept()
        with accepted:
            assert peer == (NEAR4[side], 999)
            assert (
                accepted.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
                == NAMES[side].encode() + b"\0"
            )


def a_connection_leaves_by_its_device(host: Host) -> None:
    client = host.open(socket.SOCK_STREAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"vde1")
    assert client.connect_ex((NEAR4[0], 80)) == errno.EINPROGRESS
    request = host.sent(1, lambda one: parse_tcp(one) is not None)
    assert source_of(request) == OWN4[1]
    assert client.getsockname()[0] == OWN4[1]


def a_scope_tells_link_local_neighbours_apart(host: Host) -> None:
    sock = host.datagrams(socket.AF_INET6)
    sock.bind(("::", 700))
    for side in (0, 1):
        index = host.host.index(NAMES[side])
        sock.sendto(b"local", (NEAR_LOCAL, 9, 0, index))
        sent = host.sent(side, udp_to(NEAR_LOCAL, b"local"))
        assert (sent[:6], sent[6:12]) == (NEAR_MACS[side], MACS[side])
        host.send(side, udp((NEAR_LOCAL, 9), (source_of(sent), 700), b"reply"))
        host.settle()
        assert sock.recvfrom(100) == (b"reply", (NEAR_LOCAL, 9, 0, index))


def a_link_local_host_needs_a_scope(host: Host) -> None:
    stream = host.open(socket.SOCK_STREAM, socket.AF_INET6)
    assert failure(stream.connect, (NEAR_LOCAL, 9)) == errno.EINVAL
    assert failure(stream.bind, (NEAR_LOCAL, 9)) == errno.EINVAL
    assert failure(stream.bind, (NEAR_LOCAL, 9, 0, 77)) == errno.ENODEV
    bound = host.datagrams(socket.AF_INET6, device=NAMES[1])
    bound.sendto(b"by device", (NEAR_LOCAL, 9))
    assert host.sent(1, udp_to(NEAR_LOCAL, b"by device"))
    first = host.host.index(NAMES[0])
    assert failure(bound.connect, (NEAR_LOCAL, 9, 0, first)) == errno.EINVAL
    # One that is named wins over the device, where it is only for this datagram.
    bound.sendto(b"elsewhere", (NEAR_LOCAL, 9, 0, first))
    assert host.sent(0, udp_to(NEAR_LOCAL, b"elsewhere"))


def a_link_local_end_binds_to_its_interface(host: Host) -> None:
    second = host.host.index(NAMES[1])
    connected = host.datagrams(socket.AF_INET6)
    connected.connect((NEAR_LOCAL, 9, 0, second))
    bound = host.datagrams(socket.AF_INET6)
    bound.bind((connected.getsockname()[0], 0, 0, second))
    for sock in (connected, bound):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b"vde1\0"


def what_is_behind_an_interface_that_is_down_is_unreachable(host: Host) -> None:
    host.host.add_route("10.9.0.0/16", NEAR4[1], NAMES[1])
    sender, bound = host.datagrams(), host.datagrams(device=NAMES[1])
    host.host.set_up(NAMES[1], False)
    for sock, to in ((sender, NEAR4[1]), (sender, FAR4), (bound, NEAR4[1])):
        assert failure(sock.sendto, b"x", (to, 9)) == errno.ENETUNREACH
    # The address is the host's all the same.
    assert source_of(host.reply_to(0, NEAR4[0], OWN4[1])) == OWN4[1]
    host.host.set_up(NAMES[1], True)
    sender.sendto(b"again", (NEAR4[1], 9))
    assert host.sent(1, udp_to(NEAR4[1], b"again"))
    # Routes of the administrator are gone, as with `ip link set down`.
    assert failure(sender.sendto, b"x", (FAR4, 9)) == errno.ENETUNREACH


def an_interface_that_is_taken_away_takes_its_addresses(host: Host) -> None:
    sender, bound = host.datagrams(), host.datagrams(device=NAMES[1])
    host.remove(1)
    assert failure(sender.sendto, b"x", (NEAR4[1], 9)) == errno.ENETUNREACH
    assert failure(bound.sendto, b"x", (NEAR4[1], 9)) == errno.ENODEV
    assert failure(host.datagrams().bind, (OWN4[1], 0)) == errno.EADDRNOTAVAIL
    host.send(0, icmp(8, 0, b"\0\1\0\1gone", NEAR4[0], OWN4[1]))
    assert host.never(0, lambda one: one.endswith(b"gone"))
    sender.sendto(b"still", (NEAR4[0], 9))
    assert host.sent(0, udp_to(NEAR4[0], b"still"))


def nobody_asks_in_the_wrong_network(host: Host) -> None:
    host.datagrams().sendto(b"x", (NEAR4[1], 9))
    host.sent(1, asks_for(NEAR4[1]))
    assert host.never(0, asks_for(NEAR4[1]))


SCENARIOS: list[Callable[[Host], None]] = [
    each_interface_answers_in_its_own_network,
    an_address_is_reached_through_the_other_interface,
    arp_is_answered_for_the_other_interface,
    nothing_is_forwarded,
    nobody_asks_in_the_wrong_network,
    a_sender_has_the_address_of_its_interface,
    the_longest_prefix_chooses_the_interface,
    a_route_into_ones_own_network_counts,
    an_address_of_ones_own_goes_out_by_the_route,
    a_broadcast_goes_out_where_its_source_is,
    the_name_of_the_device_is_told,
    a_device_hears_its_own_network_only,
    devices_share_a_port,
    a_device_sends_into_its_network_without_a_route,
    a_device_takes_its_own_route,
    the_same_neighbour_is_on_both_sides,
    a_listener_of_a_device_is_reached_through_it_only,
    a_connection_leaves_by_its_device,
    a_scope_tells_link_local_neighbours_apart,
    a_link_local_host_needs_a_scope,
    a_link_local_end_binds_to_its_interface,
    what_is_behind_an_interface_that_is_down_is_unreachable,
    an_interface_that_is_taken_away_takes_its_addresses,
]
