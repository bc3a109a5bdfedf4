"""What a program under ``vpoll-asyncio run`` sees where it looks at its host."""

from __future__ import annotations

import ast
import functools
import socket
from typing import Any

import pytest

from run_helpers import run

ADDRESS = "ip=10.9.0.1/24"
# Nobody is at the other end, and no address is IPv6's.
STACKS = {
    "memory": f"stack=memory,{ADDRESS}",
    "lwip": f"stack=lwip,vnl=wire://host,{ADDRESS}",
    "vdestack": f"stack=vdestack,vnl=wire://host,{ADDRESS}",
}
ON = pytest.mark.parametrize(
    "stack",
    [
        "memory",
        pytest.param("lwip", marks=pytest.mark.needs("lwip")),
        pytest.param("vdestack", marks=pytest.mark.needs("vdestack")),
    ],
)
HOST = socket.gethostname()
BOTH = [("::1", 80, 0, 0), ("127.0.0.1", 80)]
TOLD: dict[str, Any] = {
    "gethostname()": HOST,
    "gethostbyname(gethostname())": "10.9.0.1",
    "gethostbyname_ex(gethostname())[2]": ["10.9.0.1"],
    "[a[4] for a in getaddrinfo(gethostname(), 80, type=SOCK_STREAM)]": [("10.9.0.1", 80)],
    "gethostbyname('localhost')": "127.0.0.1",
    "[a[4] for a in getaddrinfo('localhost', 80, type=SOCK_STREAM)]": BOTH,
    "[a[4] for a in getaddrinfo('localhost', 80, type=SOCK_STREAM, flags=AI_ADDRCONFIG)]": BOTH[1:],
    "getservbyname('http')": 80,
    "getservbyport(80)": "http",
    "getaddrinfo('10.9.0.1', 'http', type=SOCK_STREAM)[0][4]": ("10.9.0.1", 80),
    "has_ipv6": True,
    "has_dualstack_ipv6()": True,
    # It does not take a packet to know that there is no way.
    "error(create_connection, ('2001:db8::1', 80))": "OSError ENETUNREACH",
    # The first address of localhost is ::1, the second answers as well.
    "error(create_connection, ('localhost', 9))": "ConnectionRefusedError ECONNREFUSED",
    "error(create_connection, ('name.invalid', 80))": "gaierror EAI_NONAME",
    "error(gethostbyname, 'name.invalid')": "gaierror EAI_NONAME",
    "error(gethostbyaddr, '10.9.0.7')": "herror HOST_NOT_FOUND",
    "both_families(create_server(('', 81)))": ["127.0.0.1"],
    "both_families(create_server(('', 81), family=AF_INET6, dualstack_ipv6=True))": [
        "::ffff:127.0.0.1",
        "::1",
    ],
    "if_nametoindex('lo')": 1,
    "if_nametoindex(b'lo')": 1,
    "if_indextoname(1)": "lo",
    "error(if_nametoindex, 'absent0')": "OSError ENODEV",
    "error(if_indextoname, 99)": "OSError ENXIO",
    "type(socket(AF_UNIX)).__module__": "socket",
}
PROGRAM = '''
import errno, sys, warnings
from socket import *
warnings.simplefilter("ignore", ResourceWarning)

def error(call, *args):
    try:
        return call(*args)
    except gaierror as exc:
        return "gaierror " + ("EAI_NONAME" if exc.errno == EAI_NONAME else str(exc))
    except herror as exc:
        return "herror " + ("HOST_NOT_FOUND" if exc.errno == 1 else str(exc))
    except OSError as exc:
        return f"{type(exc).__name__} {errno.errorcode[exc.errno]}"

def both_families(server):
    """The peers that connect to it by IPv4 and IPv6."""
    found = []
    for address in ("127.0.0.1", "::1"):
        if address == "::1" and server.family == AF_INET:
            continue
        with create_connection((address, server.getsockname()[1])):
            accepted, peer = server.accept()
            accepted.close()
        found.append(peer[0])
    server.close()
    return found

for line in sys.stdin:
    print(repr(eval(line)))
'''


@functools.cache
def answers(stack: str, asked: tuple[str, ...]) -> list[Any]:
    ended = run("-c", PROGRAM, stack=STACKS[stack], stdin="\n".join(asked))
    assert (ended.status, ended.err) == (0, "")
    return [ast.literal_eval(line) for line in ended.out.splitlines()]


@pytest.mark.parametrize("question", TOLD)
@ON
def test_the_host_is_the_stack(stack: str, question: str) -> None:
    found = answers(stack, tuple(TOLD))
    assert dict(zip(TOLD, found, strict=True))[question] == TOLD[question]


@pytest.mark.parametrize(
    ("stack", "names"),
    [
        ("memory", ["lo"]),
        pytest.param("vdestack", ["lo", "vde0"], marks=pytest.mark.needs("vdestack")),
    ],
)
def test_interfaces_are_the_stacks(stack: str, names: list[str]) -> None:
    question = "[(name, if_nametoindex(name) == index) for index, name in if_nameindex()]"
    [found] = answers(stack, (question,))
    assert found == [(name, True) for name in names]


@pytest.mark.needs("lwip")
def test_interfaces_of_lwip_are_the_programs() -> None:
    [found] = answers("lwip", ("[name for index, name in if_nameindex()]",))
    assert found[0] == "lo"
    assert len(found) == 2


def test_a_hostname_of_a_memory_network_is_known() -> None:
    config = f"{STACKS['memory']},hostname=own"
    ended = run("-c", "import socket; print(socket.gethostbyname('own'))", stack=config)
    assert ended == (0, "10.9.0.1\n", "")
