"""Numeric addresses that need no getaddrinfo(3) are answered as it answers them."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpoll_asyncio.sockaddr import numeric_answer

PLAIN = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
ODD = st.sampled_from(
    [
        "127.1",
        "1",
        "0x7f.0.0.1",
        "010.0.0.1",
        "1.2.3.4 ",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "FD00::AB",
        "2001:db8:0:0:0:0:0:1",
        "fe80::1%lo",
        "::",
        "0.0.0.0",
        "",
        "localhost",
        "1.2.3",
        "1:2",
        "\0",
        "\xe9",
    ]
)
PORTS = st.one_of(st.integers(0, 65535), st.sampled_from([-1, 65536, True, None, "80", "http"]))
FAMILIES = st.sampled_from([0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
KINDS = st.sampled_from([0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, 99])
PROTOS = st.sampled_from([0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 255])
FLAGS = st.sampled_from(
    [0, socket.AI_PASSIVE, socket.AI_NUMERICHOST, socket.AI_CANONNAME, socket.AI_V4MAPPED]
)


@given(st.one_of(PLAIN, ODD), PORTS, FAMILIES, KINDS, PROTOS, FLAGS)
def test_answer_is_what_getaddrinfo_says(
    host: str, port: Any, family: int, kind: int, proto: int, flags: int
) -> None:
    answer = numeric_answer(host, port, family, kind, proto, flags)
    if answer is not None:
        found = socket.getaddrinfo(
            host,
            port,
            family,
            kind,
            proto,
            flags | socket.AI_NUMERICHOST,
        )
        assert found == [answer]
        assert [type(part) for part in found[0]] == [type(part) for part in answer]


@given(PLAIN, st.integers(0, 65535), st.sampled_from([socket.SOCK_STREAM, socket.SOCK_DGRAM]))
def test_plain_question_is_answered(host: str, port: int, kind: int) -> None:
    answer = numeric_answer(host, port, 0, kind, 0, 0)
    assert answer is not None
    assert ipaddress.ip_address(answer[4][0]) == ipaddress.ip_address(host)
    assert answer[4][1] == port


@pytest.mark.parametrize("host", [None, b"127.0.0.1", "127.0.0.1\0"])
def test_other_hosts_are_left_to_getaddrinfo(host: object) -> None:
    assert numeric_answer(host, 80, 0, socket.SOCK_STREAM, 0, 0) is None
