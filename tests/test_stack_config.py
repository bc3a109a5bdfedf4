"""iothconf's strings: what splits at commas, and what a locator keeps together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpoll_asyncio.stacks import parse_config


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("stack=lwip,vnl=slirp://", {"stack": "lwip", "vnl": "slirp://"}),
        (
            "vnl=slirp:///tcpfwd=1:10.0.2.15:2,3:10.0.2.15:4,ip=10.0.2.15/24",
            {"vnl": "slirp:///tcpfwd=1:10.0.2.15:2,3:10.0.2.15:4", "ip": "10.0.2.15/24"},
        ),
        (
            "stack=lwip,vnl=netem://delay=10ms,loss=2%{wire://a},ip=10.0.0.1/24",
            {
                "stack": "lwip",
                "vnl": "netem://delay=10ms,loss=2%{wire://a}",
                "ip": "10.0.0.1/24",
            },
        ),
        (
            "vnl=pcap://x{netem://seed=1,loss=2%{slirp:///mtu=9000,v6=1}},eth,ip=10.0.0.1/24",
            {
                "vnl": "pcap://x{netem://seed=1,loss=2%{slirp:///mtu=9000,v6=1}}",
                "eth": "1",
                "ip": "10.0.0.1/24",
            },
        ),
        ("ip=10.0.0.1/24,ip=10.0.0.2/24", {"ip": ["10.0.0.1/24", "10.0.0.2/24"]}),
    ],
)
def test_a_locator_with_another_one_inside_is_one_value(
    config: str, options: dict[str, str | list[str]]
) -> None:
    assert parse_config(config) == options


@pytest.mark.parametrize("config", ["vnl=a://{b://", "vnl=a://b://}", "vnl=a://{b://}}"])
def test_a_brace_without_its_counterpart_is_a_value_error(config: str) -> None:
    with pytest.raises(ValueError, match="no counterpart"):
        parse_config(config)


@given(st.text(alphabet="a=,{}:/"))
def test_any_text_has_options_or_is_a_value_error_that_shows_it(config: str) -> None:
    try:
        options = parse_config(config)
    except ValueError as error:
        shown = str(error)
    else:
        shown = repr(config) if all(options) else ""
    assert repr(config) in shown
