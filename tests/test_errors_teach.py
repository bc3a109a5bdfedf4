"""What a newcomer gets wrong is answered with what happened, why, and what to do about it.

What sockets answer is in test_errors_sockets.py, what is not installed in
test_errors_missing.py; docs/reference/errors.md explains the situations of all three.
"""

from __future__ import annotations

import ast
import asyncio
import errno
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vpoll_asyncio as va
from lessons import Lesson, fails
from vpoll_asyncio import cli
from vpoll_asyncio.stacks.lwip.config import parse_interfaces

ROOT = Path(__file__).parent.parent
OWN = "10.0.0.1"

holds_nothing = pytest.mark.usefixtures("no_fd_leak")
"""What fails has given back every descriptor."""


# What is written wrongly: ValueError, with the value, before anything is opened.

WRITTEN_WRONGLY: dict[str, tuple[str, str, str, str]] = {
    "a stack with a typing error": (
        "stack=lwpi",
        "no stack 'lwpi'",
        "did you mean 'lwip'?",
        "expected one of host, lwip, memory",
    ),
    "no stack at all": ("ip=10.0.0.1/24", "'ip=10.0.0.1/24'", "exactly one", "stack=NAME"),
    "two stacks": (
        "stack=lwip,stack=memory",
        "'stack=lwip,stack=memory'",
        "exactly one",
        "stack=NAME",
    ),
    "a value without its key": (
        "stack=memory,10.0.0.1/24",
        "'stack=memory,10.0.0.1/24'",
        "after the comma",
        "KEY=VALUE",
    ),
    "an option with a typing error": (
        "stack=memory,ipp=10.0.0.1/24",
        "unexpected keyword argument 'ipp'",
        "did you mean 'ip'?",
        "it takes vnl, ip,",
    ),
    "an address that is none": (
        "stack=memory,ip=10.0.0.256/24",
        "'10.0.0.256/24'",
        "is no IP address",
        "like '10.0.0.1/24'",
    ),
    "an address twice": (
        "stack=memory,ip=10.0.0.1/24,ip=10.0.0.1/24",
        "['10.0.0.1/24', '10.0.0.1/24']",
        "has an address",
        "twice",
    ),
    "a network of another kind": (
        "stack=memory,vnl=slirp://",
        "'slirp://'",
        "names no memory network",
        "expected 'mem://NAME'",
    ),
    "a name server by its name": (
        "stack=memory,ip=10.0.0.1/24,dns=ns.lab",
        "dns='ns.lab'",
        "expected the address of a name server",
        "as 10.0.2.3",
    ),
}


@holds_nothing
@pytest.mark.parametrize("situation", WRITTEN_WRONGLY)
def test_a_configuration_that_is_wrong_teaches_the_right_one(situation: str) -> None:
    config, *parts = WRITTEN_WRONGLY[situation]
    fails(lambda: va.open_stack(config), Lesson(ValueError, None, *parts))


LWIP_WRONGLY: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "no link": ({"ip": "10.0.0.1/24"}, "needs a network", "either", "vnl=LOCATOR or link=LINK"),
    "an address that is none": (
        {"vnl": "wire://", "ip": "10.0.0.256/24"},
        "ip='10.0.0.256/24'",
        "expected an address with its prefix length",
        "as 10.0.2.15/24",
    ),
    "an address twice": (
        {"vnl": "wire://a", "ip": ["10.0.0.1/24", "10.0.0.1/24"]},
        "10.0.0.1",
        "is given twice",
        "each address once",
    ),
    "a gateway out of reach": (
        {"vnl": "wire://a", "ip": "10.0.0.1/24", "gw": "10.9.9.9"},
        "gw='10.9.9.9'",
        "(10.0.0.1/24)",
        "expected an address that the stack reaches",
    ),
    "an address without prefix length, hence no neighbours": (
        {"vnl": "wire://a", "ip": "10.0.0.1", "gw": "10.0.0.2"},
        "gw='10.0.0.2'",
        "(10.0.0.1/32",
        "give the prefix length of the network, as ip=ADDRESS/24",
    ),
    "two links": (
        {"vnl": ["wire://a", "wire://b"], "ip": "10.0.0.1/24"},
        "['wire://a', 'wire://b']",
        "an interface has one link",
        "begin another with iface=NAME",
    ),
}


@pytest.mark.needs("lwip")
@holds_nothing
@pytest.mark.parametrize("situation", LWIP_WRONGLY)
def test_options_of_lwip_that_are_wrong_teach_the_right_ones(situation: str) -> None:
    options, *parts = LWIP_WRONGLY[situation]
    fails(lambda: va.open_stack("lwip", **options), Lesson(ValueError, None, *parts))


def test_an_address_may_be_on_a_stack_once_in_any_spelling() -> None:
    with pytest.raises(ValueError, match="fd00::1 is given twice"):
        parse_interfaces(["fd00::1/64"], ["fd00:0::1/48"])
    assert len(parse_interfaces(["10.0.0.1/24", "10.0.0.2/24"], ())) == 2


LOCATORS = {
    "a scheme with a typing error": (
        "slrip://",
        "no link serves slrip://",
        "did you mean 'slirp'?",
        "expected one of tap, tun",
    ),
    "no scheme": ("slirp", "'slirp' is no Virtual Network Locator", "SCHEME://ADDRESS", "./slirp"),
    "an option of slirp with a typing error": (
        "slirp:///tcpfwrd=8080:10.0.2.15:80",
        "no option 'tcpfwrd'",
        "did you mean 'tcpfwd'?",
        "expected some of",
    ),
    "a forward that lacks a port": (
        "slirp:///tcpfwd=10.0.2.15:80",
        "tcpfwd=10.0.2.15:80",
        "2 fields instead of 3 or 4",
        "[HOST_IP:]HOST_PORT:GUEST_IP:GUEST_PORT",
    ),
    "an option of netem with a typing error": (
        "netem://dealy=10ms{slirp://}",
        "dealy=10ms",
        "netem:// has",
        "delay, jitter",
    ),
    "a delay without a unit that is known": (
        "netem://delay=10mss{slirp://}",
        "delay='10mss'",
        "expected seconds",
        '"10ms"',
    ),
    "an emulated network around nothing": (
        "netem://delay=10ms",
        "'netem://delay=10ms'",
        "expected another locator in braces",
        "{slirp://}",
    ),
}


@holds_nothing
@pytest.mark.parametrize("situation", LOCATORS)
def test_a_locator_that_is_wrong_teaches_the_right_one(situation: str) -> None:
    vnl, *parts = LOCATORS[situation]
    fails(lambda: va.open_link(vnl), Lesson(ValueError, None, *parts))


@pytest.mark.needs("vde")
@pytest.mark.parametrize("kind", ["nothing", "a directory"])
def test_where_no_switch_is_the_error_says_how_to_start_one(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "switch"
    if kind == "a directory":
        path.mkdir()
    fails(
        lambda: va.open_link(f"vde://{path}"),
        Lesson(
            FileNotFoundError,
            errno.ENOENT,
            f"cannot open vde://{path}",
            "is vde_switch running with that path?",
            "vde_switch -s PATH",
        ),
    )


# What the host refuses.


@pytest.mark.needs("slirp")
def test_a_port_of_the_host_that_is_taken_is_told_with_the_way_to_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        fails(
            lambda: va.open_link(f"slirp:///tcpfwd=127.0.0.1:{port}:10.0.2.15:80"),
            Lesson(
                OSError,
                errno.EADDRINUSE,
                f"slirp cannot forward 127.0.0.1:{port}:10.0.2.15:80",
                "a program of the host has that port",
                "choose another, or 0 for a free one",
            ),
        )


@pytest.mark.needs("slirp")
def test_an_address_that_the_host_does_not_have_is_told_with_those_to_take() -> None:
    fails(
        lambda: va.open_link("slirp:///tcpfwd=192.0.2.1:0:10.0.2.15:80"),
        Lesson(
            OSError,
            errno.EADDRNOTAVAIL,
            "slirp cannot forward 192.0.2.1:0:10.0.2.15:80",
            "no address of the host",
            "choose 127.0.0.1, or none for all",
        ),
    )


@pytest.mark.needs("lwip", "dpkt")
def test_without_a_dhcp_server_the_end_of_waiting_says_what_to_give() -> None:
    fails(
        lambda: va.open_stack("lwip", vnl="wire://nobody", dhcp=True, dhcp_timeout=0.01),
        Lesson(
            TimeoutError,
            errno.ETIMEDOUT,
            "no lease from a DHCP server",
            "is one on that link?",
            "give ip=ADDRESS/PREFIX",
        ),
    )


# Calls in the wrong place.


def test_a_loop_in_a_loop_says_what_to_do_there() -> None:
    async def main() -> None:
        inner = asyncio.sleep(0)
        try:
            va.run(inner)
        finally:
            inner.close()

    fails(
        lambda: asyncio.run(main()),
        Lesson(
            RuntimeError,
            None,
            "vpoll_asyncio.run() cannot be called",
            "from a running event loop",
            "await the coroutine there",
        ),
    )


def test_something_that_is_no_stack_is_named() -> None:
    async def main() -> None: ...

    coroutine = main()
    fails(
        lambda: va.run(coroutine, stack="memory"),  # type: ignore[arg-type]
        Lesson(TypeError, None, "stack must be", "not 'memory'", "what open_stack() returns"),
    )
    coroutine.close()


def test_install_may_be_nested_and_left_in_any_order() -> None:
    kernel = socket.socket
    first, second = va.install(), va.install()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with va.open_stack("memory") as stack, stack.activate(), socket.socket() as sock:
        assert isinstance(sock, va.UserSocket)
    second.__exit__(None, None, None)
    assert socket.socket is kernel


# Vpolls and their descriptors.


@pytest.mark.parametrize("mask", [1 << 28, 1 << 31, -1])
def test_a_mask_beyond_bit_27_says_which_bits_there_are(mask: int) -> None:
    with va.VPoll() as vpoll:
        for call in (vpoll.add_events, vpoll.set_events, vpoll.del_events):
            fails(
                lambda call=call: call(mask),  # type: ignore[misc]
                Lesson(
                    ValueError,
                    None,
                    f"event mask {mask:#x}",
                    "bits outside 0xfffffff",
                    "use EPOLL* event bits only",
                ),
            )
        assert vpoll.events == 0


def test_a_backend_with_a_typing_error_is_named_with_the_nearest() -> None:
    fails(
        lambda: va.VPoll(backend="fsue"),
        Lesson(ValueError, None, "no vpoll backend 'fsue'", "did you mean 'fuse'?", "unixpair"),
    )


KERNEL_CALLS: dict[str, tuple[Callable[[int], object], type[Exception]]] = {
    "os.read": (lambda number: os.read(number, 1), OSError),
    "os.fstat": (os.fstat, OSError),
    "epoll": (lambda number: select.epoll().register(number), OSError),
    "select": (lambda number: select.select([number], [], [], 0), ValueError),
}


@pytest.mark.parametrize("call", KERNEL_CALLS)
def test_a_virtual_vpolls_number_is_none_of_the_kernels(call: str) -> None:
    what, raised = KERNEL_CALLS[call]
    with va.VPoll(backend="virtual") as vpoll:
        assert vpoll.fileno() >= 1 << 30
        with pytest.raises(raised) as caught:
            what(vpoll.fileno())
    assert type(caught.value) is raised
    assert getattr(caught.value, "errno", errno.EBADF) == errno.EBADF


def test_poll_shows_a_virtual_vpolls_number_as_not_open() -> None:
    with va.VPoll(backend="virtual") as vpoll:
        poll = select.poll()
        poll.register(vpoll, select.POLLIN)
        assert poll.poll(0) == [(vpoll.fileno(), select.POLLNVAL)]


@pytest.mark.needs("uvloop")
def test_stock_uvloop_does_not_take_a_virtual_vpoll() -> None:
    import uvloop

    async def main(vpoll: va.VPoll) -> None:
        asyncio.get_running_loop().add_reader(vpoll, lambda: None)

    with va.VPoll(backend="virtual") as vpoll, pytest.raises(OSError) as caught:
        uvloop.run(main(vpoll))
    assert caught.value.errno == errno.EBADF


@pytest.mark.needs("uvloop")
@pytest.mark.parametrize("use", ["open_connection", "start_server"])
def test_stock_uvloops_streams_on_a_user_socket_name_ours(use: str) -> None:
    import uvloop

    async def main(sock: socket.socket) -> None:
        if use == "open_connection":
            await asyncio.open_connection(sock=sock)
        else:
            await asyncio.start_server(lambda reader, writer: None, sock=sock)

    with va.open_stack("memory", ip=f"{OWN}/24") as stack:
        with stack.socket() as server, stack.socket() as client:
            server.bind((OWN, 80))
            server.listen()
            client.connect((OWN, 80))
            sock = client if use == "open_connection" else server
            sock.setblocking(False)
            fails(
                lambda: uvloop.run(main(sock)),
                Lesson(
                    OSError,
                    errno.ENOTSUP,
                    "descriptor",
                    "since its" if use == "open_connection" else "would read and write",
                    "use vpoll_asyncio.open_connection, start_server",
                ),
            )


def test_reading_the_descriptor_of_a_user_socket_names_recv() -> None:
    with va.open_stack("memory", ip=f"{OWN}/24") as stack, va.install(), stack.socket() as sock:
        fails(
            lambda: os.read(sock.fileno(), 1),
            Lesson(OSError, errno.ENOTSUP, "os.read()", "only signals the events", "use recv()"),
        )


# The command line: one line on standard error, and an exit status.

COMMANDS = {
    "no command": ([], 2, "expected a command: run, info, demo or build"),
    "a command with a typing error": (["rnu"], 2, "invalid choice: 'rnu'"),
    "no program": (
        ["run", "--stack", "stack=memory"],
        2,
        "expected a program: SCRIPT, -m MODULE or -c CODE",
    ),
    "no stack": (["run", "x.py"], 2, "expected --stack CONFIG (or VPOLL_STACK"),
    "a stack with a typing error": (
        ["run", "--stack", "stack=memry", "x.py"],
        2,
        "did you mean 'memory'?",
    ),
}


@pytest.mark.parametrize("situation", COMMANDS)
def test_a_wrong_command_line_is_told_in_a_line(
    situation: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, status, said = COMMANDS[situation]
    monkeypatch.delenv("VPOLL_STACK", raising=False)
    try:
        ended = cli.main(arguments)
    except SystemExit as end:
        ended = end.code  # type: ignore[assignment]
    assert said in capfd.readouterr().err
    assert ended == status


PROGRAMS = {
    "a script": (["no-such.py"], 2, "can't open file"),
    "a module": (["-m", "no_such"], 1, "No module named no_such"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_is_not_there_is_told_in_a_line(program: str) -> None:
    arguments, status, said = PROGRAMS[program]
    done = subprocess.run(
        [sys.executable, "-m", "vpoll_asyncio", "run", "--stack", "stack=memory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == status


# The page that explains them.


def texts_of_the_package() -> str:
    """Every text in the package's code, a line each, with … where a value is put in."""
    lines = []
    for module in (ROOT / "vpoll_asyncio").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", "") for part in node.values]
                lines.append("".join(part if isinstance(part, str) else "…" for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(node.value)
    return "\n".join(lines)


def test_the_page_quotes_what_the_code_says() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    quoted = [text for row in rows for text in row.split("`")[1::2]]
    said = texts_of_the_package()
    commands = re.compile("pip|apt-get|chmod|ip tuntap|vpoll-asyncio|vde_switch|with")
    unknown = {
        piece
        for text in quoted
        if not commands.match(text)
        for piece in map(str.strip, text.split("…"))
        if " " in piece and piece not in said and not piece.endswith("Permission denied")
    }
    assert not unknown
    assert len(quoted) > 40
