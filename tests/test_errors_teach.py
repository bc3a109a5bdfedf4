"""What a newcomer is likely to meet says what happened, why, and what to do about it.

A `Lesson` is one such error: its exact class and errno, and what its text, with the notes
beneath it, must say.  docs/reference/errors.md explains the same situations.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import vpoll_asyncio as va
from needs import missing
from vpoll_asyncio import cli, native
from vpoll_asyncio.native import HELPERS
from vpoll_asyncio.stacks.lwip.config import parse_interfaces

ROOT = Path(__file__).parent.parent
OWN = "10.0.0.1"

holds_nothing = pytest.mark.usefixtures("no_fd_leak")
"""What fails has given back every descriptor."""


class Lesson(NamedTuple):
    """An error, and the three parts that it must have."""

    raised: type[BaseException]
    number: int | None
    happened: str
    why: str
    remedy: str


def told(error: BaseException) -> str:
    """The text that a traceback of `error` ends with."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def check(error: BaseException, lesson: Lesson) -> None:
    assert type(error) is lesson.raised, repr(error)
    assert getattr(error, "errno", None) == lesson.number
    for part in lesson[2:]:
        assert part in told(error)


def fails(call: Callable[[], Any], lesson: Lesson) -> None:
    with pytest.raises(lesson.raised) as caught:
        call()
    check(caught.value, lesson)


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


# What sockets of stacks answer: the kernel's number and text, and a note.


@pytest.fixture(params=["memory", pytest.param("lwip", marks=pytest.mark.needs("lwip"))])
def stack(request: pytest.FixtureRequest) -> Iterator[va.Stack]:
    name = request.param
    vnl = "mem://errors" if name == "memory" else "wire://errors"
    with va.open_stack(name, vnl=vnl, ip=f"{OWN}/24") as stack:
        yield stack


def connect_blocking(stack: va.Stack, address: tuple[str, int]) -> None:
    with stack.socket() as sock:
        sock.connect(address)


def connect_non_blocking(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        with stack.socket() as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)

    va.run(main(), stack=stack)


def connect_streams(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        await asyncio.open_connection(*address)

    va.run(main(), stack=stack)


def connect_on_stock_asyncio(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        await va.open_connection(*address, stack=stack)

    asyncio.run(main())


def bind_blocking(stack: va.Stack, address: tuple[str, int]) -> None:
    with stack.socket() as sock:
        sock.bind(address)
        sock.listen()


def bind_server(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        async with await asyncio.start_server(lambda reader, writer: None, *address):
            pass

    va.run(main(), stack=stack)


def bind_local(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        await asyncio.open_connection(OWN, 9, local_addr=address)

    va.run(main(), stack=stack)


def bind_datagrams(stack: va.Stack, address: tuple[str, int]) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=address
        )

    va.run(main(), stack=stack)


Way = Callable[[va.Stack, tuple[str, int]], None]
CONNECTING = [connect_blocking, connect_non_blocking, connect_streams, connect_on_stock_asyncio]


@pytest.mark.parametrize("connect", CONNECTING)
def test_a_refusal_says_where_nobody_listens(stack: va.Stack, connect: Way) -> None:
    fails(
        lambda: connect(stack, (OWN, 80)),
        Lesson(
            ConnectionRefusedError,
            errno.ECONNREFUSED,
            f"nothing listens on port 80 of {OWN}",
            f"as the {stack.name} stack reaches it",
            "start the server first, on that network",
        ),
    )


@pytest.mark.parametrize("connect", CONNECTING)
def test_the_loopback_of_a_stack_is_told_from_the_hosts(stack: va.Stack, connect: Way) -> None:
    fails(
        lambda: connect(stack, ("127.0.0.1", 80)),
        Lesson(
            ConnectionRefusedError,
            errno.ECONNREFUSED,
            "nothing listens there on port 80",
            f"127.0.0.1 is the {stack.name} stack's own loopback, not this host's",
            "stack=vpoll_asyncio.open_stack('host')",
        ),
    )


@pytest.mark.needs("lwip", "slirp")
@pytest.mark.parametrize(
    ("vnl", "host"),
    [
        ("slirp://", "10.0.2.2"),
        ("slirp:///addr=10.3.3.2/24", "10.3.3.2"),
        ("netem://delay=0ms{slirp:///host=10.3.3.1/24}", "10.3.3.1"),
    ],
)
def test_through_slirp_a_refusal_names_the_hosts_loopback(vnl: str, host: str) -> None:
    with va.open_stack("lwip", vnl=vnl, ip=f"{host}5/24") as stack:
        assert stack.host_loopback == host
        fails(
            lambda: connect_blocking(stack, ("127.0.0.1", 80)),
            Lesson(
                ConnectionRefusedError,
                errno.ECONNREFUSED,
                "nothing listens there on port 80",
                "not this host's",
                f"this host's own loopback is {host} from here",
            ),
        )


@pytest.mark.needs("lwip", "slirp")
def test_the_address_that_the_refusal_names_is_the_hosts_loopback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with va.open_stack("lwip", vnl="slirp://", ip="10.0.2.15/24", gw="10.0.2.2") as stack:
            assert stack.host_loopback is not None
            connect_blocking(stack, (stack.host_loopback, port))


@pytest.mark.needs("vde")
@pytest.mark.parametrize("option", ["disable_host_loopback", "restricted", "v6"])
def test_no_loopback_is_named_that_slirp_does_not_hand_on(option: str) -> None:
    from vpoll_asyncio.links.slirp import parse

    assert parse(f"slirp:///{option}").host_loopback is None


@pytest.mark.parametrize("connect", CONNECTING)
def test_an_address_out_of_reach_says_what_a_route_needs(stack: va.Stack, connect: Way) -> None:
    fails(
        lambda: connect(stack, ("10.9.9.9", 80)),
        Lesson(
            OSError,
            errno.ENETUNREACH,
            "Network is unreachable" if connect is connect_blocking else "",
            f"the {stack.name} stack has {OWN}/24 and no route to 10.9.9.9",
            "gateway (gw=ADDRESS)",
        ),
    )


def test_a_stack_whose_address_lacks_its_prefix_length_is_told_so() -> None:
    with va.open_stack("memory", ip=OWN) as stack:
        fails(
            lambda: connect_blocking(stack, ("10.0.0.2", 80)),
            Lesson(
                OSError,
                errno.ENETUNREACH,
                "no route to 10.0.0.2",
                f"{OWN} without a prefix length is a network of its own",
                f"ip='{OWN}/24'",
            ),
        )


@pytest.mark.parametrize("bind", [bind_blocking, bind_server, bind_local, bind_datagrams])
def test_an_address_of_somebody_else_is_told_with_those_to_bind(stack: va.Stack, bind: Way) -> None:
    fails(
        lambda: bind(stack, ("10.7.7.7", 80)),
        Lesson(
            OSError,
            errno.EADDRNOTAVAIL,
            f"10.7.7.7 is no address of the {stack.name} stack",
            f"which has {OWN}/24",
            "bind one that it has, or 0.0.0.0 for all of them",
        ),
    )


@pytest.mark.parametrize("bind", [bind_blocking, bind_server])
def test_a_port_that_is_taken_is_told_with_the_way_to_a_free_one(
    stack: va.Stack, bind: Way
) -> None:
    with stack.socket() as first:
        first.bind((OWN, 80))
        first.listen()
        fails(
            lambda: bind(stack, (OWN, 80)),
            Lesson(
                OSError,
                errno.EADDRINUSE,
                f"another socket of the {stack.name} stack has port 80",
                "close that one",
                "0 lets the stack choose a free one",
            ),
        )


def test_of_several_addresses_every_note_is_kept() -> None:
    with va.open_stack("memory", ip=[f"{OWN}/24", "fd00::1/64"]) as stack:
        with pytest.raises(OSError, match="Multiple exceptions") as caught:
            connect_streams(stack, ("localhost", 80))
    for loopback in ("127.0.0.1", "::1"):
        assert f"{loopback} is the memory stack's own loopback" in told(caught.value)


def test_the_text_stays_the_kernels(stack: va.Stack) -> None:
    with pytest.raises(ConnectionRefusedError) as caught, stack.socket() as sock:
        sock.connect((OWN, 80))
    assert caught.value.strerror == os.strerror(errno.ECONNREFUSED)
    with stack.socket() as sock:
        assert sock.connect_ex((OWN, 80)) == errno.ECONNREFUSED


def test_what_the_hosts_kernel_says_is_left_alone() -> None:
    with pytest.raises(OSError) as caught:
        connect_on_stock_asyncio(va.open_stack("host"), ("127.0.0.1", 1))
    assert told(caught.value) == str(caught.value)


@pytest.mark.parametrize("name", ["memory", "null"])
def test_a_name_without_name_servers_says_where_to_give_them(name: str) -> None:
    with va.open_stack(name) as stack:
        fails(
            lambda: connect_streams(stack, ("server.lab", 80)),
            Lesson(
                socket.gaierror,
                socket.EAI_NONAME,
                "'server.lab': no such name",
                f"the {name} stack, which has no DNS",
                "open it with a name server (dns=ADDRESS)",
            ),
        )


def test_a_closed_stack_says_how_long_it_must_be_open(stack: va.Stack) -> None:
    stack.close()
    lesson = Lesson(
        OSError,
        errno.ENETDOWN,
        f"the {stack.name} stack is closed",
        "keep it open",
        "until its sockets are done with",
    )
    fails(stack.socket, lesson)
    fails(lambda: connect_on_stock_asyncio(stack, (OWN, 80)), lesson)


def test_a_loop_in_a_loop_says_what_to_do_there(stack: va.Stack) -> None:
    async def main() -> None:
        inner = asyncio.sleep(0)
        try:
            va.run(inner, stack=stack)
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


def test_install_may_be_nested_and_left_in_any_order(stack: va.Stack) -> None:
    kernel = socket.socket
    first, second = va.install(), va.install()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with stack.activate(), socket.socket() as sock:
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


# What is not there: in a process of its own, which really lacks it.

_ASK = """
import json, sys
try:
    exec(sys.argv[1])
except BaseException as error:
    print(json.dumps([type(error).__name__, getattr(error, "errno", None), str(error)]))
"""


def elsewhere(
    code: str, *before: str, options: tuple[str, ...] = (), **environment: str
) -> list[Any]:
    """Run `code` in a Python of its own; return the class, errno and text of its error."""
    done = subprocess.run(
        [*before, sys.executable, *options, "-c", _ASK, f"import vpoll_asyncio as va; {code}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, done.stderr or "there was no error"
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def lacks(found: list[Any], lesson: Lesson) -> None:
    name, number, text = found
    assert (name, number) == (lesson.raised.__name__, lesson.number), text
    for part in lesson[2:]:
        assert part in text


NO_EXTRAS = ("-S",)
"""Python without its site-packages: nothing is installed but the tree itself."""

OPEN_LWIP = "va.open_stack('lwip', vnl='wire://x', ip='10.0.0.1/24')"
ABSENT = {
    "cffi": (OPEN_LWIP, OSError, errno.ENOSYS, "'lwip' is not available", "cffi", "[lwip]"),
    "dnspython": (
        "va.open_stack('memory', ip='10.0.0.1/24', dns='10.0.0.2')",
        OSError,
        errno.ENOPKG,
        "names are looked up with dnspython",
        "No module named 'dns'",
        "pip install 'vpoll-asyncio[dns]'",
    ),
    "uvloop": (
        "va.new_event_loop(loop='uvloop')",
        ImportError,
        None,
        "UvloopEventLoop",
        "needs uvloop",
        "pip install 'vpoll-asyncio[uvloop]'",
    ),
    "uvloop, asked for by run": (
        "va.run(None, loop='uvloop')",
        ImportError,
        None,
        "UvloopEventLoop",
        "needs uvloop",
        "pip install 'vpoll-asyncio[uvloop]'",
    ),
}


@pytest.mark.parametrize("package", ABSENT)
def test_a_python_package_that_is_missing_is_named_with_its_extra(package: str) -> None:
    code, *lesson = ABSENT[package]
    lacks(elsewhere(code, options=NO_EXTRAS), Lesson(*lesson))  # type: ignore[arg-type]


@pytest.mark.needs("lwip")
def test_without_dpkt_a_stack_that_asks_for_a_lease_says_so() -> None:
    hidden = "import sys; sys.modules['dpkt'] = None; "
    lacks(
        elsewhere(hidden + "va.open_stack('lwip', vnl='wire://x', dhcp=True)"),
        Lesson(
            OSError, errno.ENOPKG, "DHCP", "read with dpkt", "pip install 'vpoll-asyncio[dhcp]'"
        ),
    )


@pytest.mark.needs("lwip")
def test_without_a_compiler_the_debian_package_is_named(tmp_path: Path) -> None:
    lacks(
        elsewhere(OPEN_LWIP, PATH="/nonexistent", XDG_CACHE_HOME=str(tmp_path)),
        Lesson(
            OSError,
            errno.ENOSYS,
            "stack 'lwip' is not available",
            "there is no C compiler ('cc' not found)",
            "install the Debian package gcc",
        ),
    )


def hiding(*paths: Path) -> list[str]:
    """The beginning of a command that does not see `paths`: a mount namespace of its own."""
    covers = [
        f"mount -t tmpfs none '{path}'" if path.is_dir() else f"mount --bind /dev/null '{path}'"
        for path in paths
    ]
    user = [] if missing("root") is None else ["-U", "-r"]
    return ["unshare", "-m", *user, "sh", "-c", " && ".join([*covers, 'exec "$0" "$@"'])]


@pytest.mark.needs("lwip", "userns")
@pytest.mark.parametrize("what", ["library", "headers"])
def test_without_liblwip_the_debian_package_is_named(tmp_path: Path, what: str) -> None:
    if what == "library":
        library = native._build.find_library("lwip")
        assert library is not None
        paths, why = sorted({library, *library.parent.glob("liblwip.so*")}), "liblwip is not"
    else:
        paths, why = [Path("/usr/include", HELPERS["lwip"].include)], "the headers of liblwip"
    lacks(
        elsewhere(OPEN_LWIP, *hiding(*paths), XDG_CACHE_HOME=str(tmp_path)),
        Lesson(
            OSError,
            errno.ENOSYS,
            "stack 'lwip' is not available",
            why,
            "install the Debian package liblwip-dev",
        ),
    )


def mapped(library: str) -> Path:
    """The file that the dynamic linker takes for `library`."""
    import ctypes

    ctypes.CDLL(library)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if f"/{library.partition('.')[0]}.so" in line:
            return Path(line.split()[-1])
    raise AssertionError(f"{library} is not mapped")


@pytest.mark.needs("vde", "userns")
def test_without_libvdeplug_the_debian_package_is_named() -> None:
    lacks(
        elsewhere("va.open_link('slirp://')", *hiding(mapped("libvdeplug.so.2"))),
        Lesson(
            OSError,
            errno.ELIBACC,
            "libvdeplug.so.2 cannot be loaded",
            "libvdeplug.so.2:",
            "install the Debian package libvdeplug2",
        ),
    )


@pytest.mark.needs("slirp", "userns")
def test_without_the_plugin_of_a_scheme_its_debian_package_is_named() -> None:
    lacks(
        elsewhere(
            "va.open_link('slirp://')", *hiding(mapped("libvdeplug.so.2").with_name("vdeplug"))
        ),
        Lesson(
            OSError,
            errno.EPROTONOSUPPORT,
            "libvdeplug has no plugin",
            "for slirp://",
            "install the Debian package libvdeplug-slirp",
        ),
    )


AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.mark.needs("root", "fuse")
def test_without_the_right_to_open_dev_fuse_the_backend_says_so() -> None:
    lacks(
        elsewhere("va.VPoll(backend='fuse').fileno()", *unopenable("/dev/fuse"), *AS_NOBODY),
        Lesson(
            OSError,
            errno.ENOSYS,
            "vpoll backend 'fuse' is not available",
            "/dev/fuse: Permission denied",
            "this user the right to open its device",
        ),
    )


def unopenable(device: str) -> list[str]:
    """The beginning of a command that sees `device` without the right to open it."""
    steps = (
        "mount -t tmpfs none /mnt",
        "install -m 0 /dev/null /mnt/shut",
        f"mount --bind /mnt/shut {device}",
        'exec "$0" "$@"',
    )
    return ["unshare", "-m", "sh", "-c", " && ".join(steps)]


@pytest.mark.needs("vdestack", "userns")
def test_where_namespaces_are_forbidden_the_switch_is_named() -> None:
    forbidding = "echo 0 >/proc/sys/user/max_net_namespaces"
    lacks(
        elsewhere(
            "va.open_stack('vdestack', vnl='wire://x', ip='10.0.0.1/24')",
            *("unshare", "-U", "-r", "sh", "-c", f'{forbidding} && exec "$0" "$@"'),
        ),
        Lesson(
            OSError,
            errno.ENOSPC,
            "no network namespace",
            "unshare a network namespace: No space left on device",
            "see sysctl user.max_net_namespaces",
        ),
    )


@pytest.mark.needs("lwip")
def test_a_stack_in_a_forked_child_says_whose_it_is() -> None:
    code = f"""
import os
stack = {OPEN_LWIP}
parent = os.getpid()
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    stack.socket()
except OSError as error:
    assert f"is in process {{parent}} alone, which has forked this one" in str(error)
    raise"""
    lacks(
        elsewhere("exec('''" + code + "''')"),
        Lesson(
            OSError, errno.ENETDOWN, "the lwip stack", "which has forked", "open another stack here"
        ),
    )


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("sys.platform = 'darwin'", ["vpoll_asyncio needs Linux", "this is darwin", "machine"]),
        (
            "sys.version_info = (3, 10, 2)",
            ["vpoll_asyncio needs Python 3.11", "this is 3.10", "python3.11 -m"],
        ),
    ],
)
def test_an_import_where_it_cannot_work_says_what_it_needs(lie: str, said: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {lie}; import vpoll_asyncio"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    for part in said:
        assert part in last


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
