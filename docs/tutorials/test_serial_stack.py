"""The conformance suite on the serial line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serial_stack import Line, SerialStack

from vpoll_asyncio.testing import Difference, Hosts, StackSuite

NO_LOOPBACK = Difference("a host does not reach itself, and there is no 127.0.0.1", run=False)
NO_DATAGRAMS = Difference("there are streams only", run=False)
IPV4 = Difference("there is no IPv6")
NOTHING_KEPT = Difference(
    "the sender keeps nothing: what the peer has no room for is not taken, so no FIN waits "
    "behind data and no data are lost by a reset"
)


class TestSerial(StackSuite):
    """Everything that a stream does on Linux, but for what is declared."""

    differences = {
        "DatagramTests": NO_DATAGRAMS,
        "test_fresh_datagram_socket": NO_DATAGRAMS,
        "test_bound_and_connected_datagram_socket": NO_DATAGRAMS,
        "test_datagram_waits": NO_DATAGRAMS,
        "test_datagrams_wait_until_the_last_is_read": NO_DATAGRAMS,
        "test_refused_datagram": NO_DATAGRAMS,
        "test_connected_datagram_socket_shut_down": NO_DATAGRAMS,
        "test_event_wakes_whoever_waits[datagram]": NO_DATAGRAMS,
        "test_event_wakes_whoever_waits[another datagram]": NO_DATAGRAMS,
        "test_event_wakes_whoever_waits[datagram refused]": NO_DATAGRAMS,
        "test_event_wakes_whoever_waits[datagram socket shut down]": NO_DATAGRAMS,
        "test_shutdown_of_the_unconnected[datagram]": NO_DATAGRAMS,
        "test_a_datagram_arrives_whole": NO_DATAGRAMS,
        "test_datagrams_keep_their_bounds_and_their_order": NO_DATAGRAMS,
        "test_datagrams_are_answered": NO_DATAGRAMS,
        "test_accept_without_listen": NO_DATAGRAMS,
        "test_eight_threads_on_one_datagram_socket_and_its_peer": NO_DATAGRAMS,
        "test_closing_wakes_whoever_is_blocked[recvfrom]": NO_DATAGRAMS,
        "OptionTests": Difference("of the options there are seven", run=False),
        "test_urgent_byte_inline": Difference("SO_OOBINLINE is ENOPROTOOPT"),
        "test_low_water_mark_keeps_data_unreadable": Difference("SO_RCVLOWAT is ENOPROTOOPT"),
        "NameTests": Difference("ports are never shared", run=False),
        "ProgramTests": Difference("`compare` does it between the two hosts", run=False),
        "test_connect_to_the_wildcard_is_to_oneself": NO_LOOPBACK,
        "test_connection_with_oneself": NO_LOOPBACK,
        "test_two_loops_in_two_threads_use_one_stack": NO_LOOPBACK,
        "test_what_had_arrived_before_such_a_reset_can_be_read": NO_LOOPBACK,
        "test_specific_ipv6_address_is_for_ipv6_only": IPV4,
        "test_socket_at_an_ipv4_address_and_an_ipv6_one": IPV4,
        "test_dual_stack_listener_sees_ipv4_as_mapped": IPV4,
        "test_same_connection_twice": Difference("ports are never shared"),
        "test_fin_behind_full_buffers_comes_after_the_data": NOTHING_KEPT,
        "test_shutting_both_directions_resets_a_sender_with_data_left": NOTHING_KEPT,
    }

    @pytest.fixture
    def hosts(self) -> Iterator[Hosts]:
        line = Line()
        with SerialStack(line, 0) as server, SerialStack(line, 1) as client:
            yield Hosts(server, client, "10.0.0.1", "10.0.0.2")
