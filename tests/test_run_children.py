"""Whose network the processes have that a program under ``vpoll-asyncio run`` starts."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from processes import PROGRAMS, ROOT
from run_helpers import Ended, python

APPS = PROGRAMS / "apps"
ADDRESS = "ip=10.9.0.1/24"
# Nobody is at the other end.
STACKS = {
    "memory": f"stack=memory,{ADDRESS}",
    "lwip": f"stack=lwip,vnl=wire://children,{ADDRESS}",
    "vdestack": f"stack=vdestack,vnl=wire://children,{ADDRESS}",
}
WAYS = [
    "fork",
    "spawn",
    "forkserver",
    "executor",
    "os.fork",
    "subprocess",
    "preexec_fn",
    "grandchild",
    "posix_spawn",
    "loop",
]
HAS_VDESTACK = pytest.mark.needs("vdestack")
FORKS = ("fork", "executor", "os.fork")
IN_A_PROCESS = pytest.mark.parametrize(
    "stack", ["memory", pytest.param("lwip", marks=pytest.mark.needs("lwip"))]
)

Networks = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def networks() -> Iterator[Networks]:
    """Returns, for each way to start a child of a program on a stack, the child's network."""
    with socket.create_server(("127.0.0.1", 0)) as host:
        port = str(host.getsockname()[1])

        @functools.cache
        def ask(stack: str, *options: str) -> dict[str, str]:
            ended = run(stack, *options, "parent.py", port)
            assert (ended.status, ended.err) == (0, "")
            return dict(line.split() for line in ended.out.splitlines())

        yield ask


def run(stack: str, *arguments: str, stdin: str = "", **options: str) -> Ended:
    # A thread of the stack's makes a fork suspicious to Python 3.12 and later.
    quiet = ("-W", "ignore:This process:DeprecationWarning")
    return python(
        *quiet,
        *("-m", "vpoll_asyncio", "run", "--stack", STACKS[stack], *arguments),
        cwd=APPS,
        stdin=stdin,
        environment=options,
    )


@pytest.mark.needs("vdestack")
@pytest.mark.parametrize("way", WAYS)
def test_children_are_on_a_stack_that_is_a_network_namespace(way: str, networks: Networks) -> None:
    assert networks("vdestack")[way] == "stack"


@pytest.mark.needs("vdestack", "uvloop")
def test_a_child_that_uvloop_starts_is_on_it(networks: Networks) -> None:
    assert networks("vdestack", "--loop", "uvloop")["loop"] == "stack"


@pytest.mark.needs("lwip")
@pytest.mark.parametrize("way", WAYS)
def test_children_of_lwip_have_no_network(way: str, networks: Networks) -> None:
    assert networks("lwip")[way] == "ENETDOWN"


@pytest.mark.parametrize("way", [way for way in WAYS if way not in FORKS])
def test_executed_children_of_memory_have_no_network(way: str, networks: Networks) -> None:
    assert networks("memory")[way] == "ENETDOWN"


@pytest.mark.parametrize("way", FORKS)
def test_forked_children_of_memory_have_a_copy_of_the_network(way: str, networks: Networks) -> None:
    assert networks("memory")[way] == "stack"


@pytest.mark.parametrize("way", WAYS)
@IN_A_PROCESS
def test_children_have_the_hosts_network_where_it_is_asked_for(
    stack: str, way: str, networks: Networks
) -> None:
    assert networks(stack, "--children", "host")[way] == "host"


@pytest.mark.needs("vdestack")
@pytest.mark.parametrize(("choice", "expected"), [("host", "host"), ("refuse", "ENETDOWN")])
def test_a_network_namespace_may_be_kept_from_children(
    choice: str, expected: str, networks: Networks
) -> None:
    assert networks("vdestack", "--children", choice)["spawn"] == expected


@IN_A_PROCESS
def test_a_stack_of_one_process_cannot_be_the_childrens(stack: str) -> None:
    status, out, err = run(stack, "--children", "stack", "-c", "print(1)")
    assert (status, out) == (2, "")
    assert f"the {stack} stack is in one process alone" in err


REFUSED = {
    "socket.socket(type=DGRAM).sendto(b'', ('127.0.0.1', 9))": "OSError ENETDOWN",
    "socket.socket(type=DGRAM).sendmsg([b''], [], 0, ('127.0.0.1', 9))": "OSError ENETDOWN",
    "socket.socket(socket.AF_INET6).connect_ex(('::1', 9))": "OSError ENETDOWN",
    "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)": "OSError ENETDOWN",
    "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)": "OSError ENETDOWN",
    "socket.create_server(('127.0.0.1', 0))": "OSError ENETDOWN",
    "socket.create_connection(('127.0.0.1', 9))": "OSError ENETDOWN",
    "_socket.socket().connect(('127.0.0.1', 9))": "OSError ENETDOWN",
    "_socket.socket().bind(('127.0.0.1', 0))": "OSError ENETDOWN",
    "asyncio.run(asyncio.open_connection('127.0.0.1', 9))": "OSError ENETDOWN",
    "asyncio.run(asyncio.start_server(print, '127.0.0.1', 0))": "OSError ENETDOWN",
    "socket.getaddrinfo('name.invalid', 80)": "gaierror EAI_AGAIN",
    "socket.gethostbyname('name.invalid')": "gaierror EAI_AGAIN",
    "socket.gethostbyname_ex('name.invalid')": "gaierror EAI_AGAIN",
    "socket.gethostbyaddr('name.invalid')": "gaierror EAI_AGAIN",
    "socket.create_connection(('name.invalid', 80))": "gaierror EAI_AGAIN",
    "[end.close() for end in socket.socketpair()]": "works",
    "socket.getaddrinfo('127.0.0.1', 80)": "works",
    "socket.getaddrinfo(b'::1', 80)": "works",
    "socket.getaddrinfo('localhost', 80)": "works",
    "socket.getnameinfo(('127.0.0.1', 80), socket.NI_NUMERICHOST)": "works",
    "socket.if_nameindex()": "works",
}
UVLOOP_REFUSED = {
    "loop.create_server(print, '127.0.0.1', 0)": "OSError ENETDOWN",
    "loop.create_connection(print, '127.0.0.1', 9)": "OSError ENETDOWN",
    "loop.create_datagram_endpoint(print, ('127.0.0.1', 0))": "OSError ENETDOWN",
    "loop.getaddrinfo('name.invalid', 80)": "OSError ENETDOWN",
    "loop.create_unix_server(asyncio.Protocol, '\\0vpoll-refused')": "works",
}
TRY = """
import asyncio, errno, socket, _socket, sys, warnings
warnings.simplefilter("ignore", ResourceWarning)
from socket import SOCK_DGRAM as DGRAM
if sys.argv[1] == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop()
for line in sys.stdin:
    try:
        eval(line) if sys.argv[1] != "uvloop" else loop.run_until_complete(eval(line))
    except socket.gaierror as error:
        assert "the memory stack is in process" in str(error)
        print("gaierror", "EAI_AGAIN" if error.errno == socket.EAI_AGAIN else error)
    except OSError as error:
        assert "the memory stack is in process" in str(error)
        print("OSError", errno.errorcode.get(error.errno))
    else:
        print("works")
"""


@functools.cache
def tried(calls: tuple[str, ...], loop: str) -> list[str]:
    """What becomes of each of `calls` in a child of a program on the memory stack."""
    command = f"[sys.executable, '-c', {TRY!r}, {loop!r}]"
    code = f"import subprocess, sys; subprocess.run({command}, check=True)"
    ended = run("memory", "-c", code, stdin="\n".join(calls))
    assert (ended.status, ended.err) == (0, "")
    return ended.out.splitlines()


@pytest.mark.parametrize("call", REFUSED)
def test_a_child_without_a_network_reaches_none(call: str) -> None:
    outcome = dict(zip(REFUSED, tried(tuple(REFUSED), "stock"), strict=True))
    assert outcome[call] == REFUSED[call]


@pytest.mark.needs("uvloop")
@pytest.mark.parametrize("call", UVLOOP_REFUSED)
def test_nor_does_its_uvloop(call: str) -> None:
    outcome = dict(zip(UVLOOP_REFUSED, tried(tuple(UVLOOP_REFUSED), "uvloop"), strict=True))
    assert outcome[call] == UVLOOP_REFUSED[call]


# Each prints the network namespace of a child that is no Python program, or does not hear.
COMMANDS = {
    "subprocess": "subprocess.run(READLINK)",
    "shell": "subprocess.run('readlink /proc/self/ns/net', shell=True)",
    "os.popen": "read()",
    "loop": "asyncio.run(start())",
    "os.spawnvp": "os.spawnvp(os.P_WAIT, READLINK[0], READLINK)",
    "fork and exec": "os.fork() or os.execvp(READLINK[0], READLINK); os.wait()",
    "python -I": "subprocess.run([sys.executable, '-I', '-c', TELL])",
    "another environment": "subprocess.run([sys.executable, '-c', TELL], env={})",
    "os.system": "os.system('readlink /proc/self/ns/net')",
    "posix_spawn": "os.waitpid(os.posix_spawnp(READLINK[0], READLINK, os.environ), 0)",
}
OUTSIDE = ("os.system", "posix_spawn")
START = """
import asyncio, os, subprocess, sys
READLINK = ["readlink", "/proc/self/ns/net"]
TELL = "import os; print(os.readlink('/proc/self/ns/net'))"
def read():
    with os.popen("readlink /proc/self/ns/net") as out:
        print(out.read(), end="", flush=True)
async def start():
    await (await asyncio.create_subprocess_exec(*READLINK)).wait()
"""


@functools.cache
def namespaces(stack: str) -> dict[str, str]:
    """The network namespace of each of the children that COMMANDS start."""
    ended = run(stack, "-c", "\n".join([START, *COMMANDS.values()]))
    assert (ended.status, ended.err) == (0, "")
    return dict(zip(COMMANDS, ended.out.splitlines(), strict=True))


@pytest.mark.needs("vdestack")
@pytest.mark.parametrize("way", [way for way in COMMANDS if way not in OUTSIDE])
def test_other_programs_are_in_the_stacks_namespace(way: str) -> None:
    found = namespaces("vdestack")
    assert found[way] != os.readlink("/proc/self/ns/net")
    assert found[way] == found["subprocess"]


@pytest.mark.needs("vdestack")
@pytest.mark.parametrize("way", OUTSIDE)
def test_but_for_those_that_nobody_can_tell(way: str) -> None:
    assert namespaces("vdestack")[way] == os.readlink("/proc/self/ns/net")


@pytest.mark.parametrize("way", COMMANDS)
def test_other_programs_have_the_hosts_network_where_the_stack_is_in_the_process(way: str) -> None:
    assert namespaces("memory")[way] == os.readlink("/proc/self/ns/net")


@pytest.mark.parametrize("process", [1 << 22, os.getpid()], ids=["ended", "another"])
def test_a_child_that_outlives_the_stacks_network_has_none(process: int) -> None:
    startup = ROOT / "vpoll_asyncio" / "program" / "startup"
    ended = python(
        *("-c", "import socket\nwith socket.socket() as sock: sock.bind(('127.0.0.1', 0))"),
        environment={"PYTHONPATH": str(startup), "VPOLL_CHILDREN": f"enter:{process}:1"},
    )
    assert ended.status == 1
    assert "cannot enter the stack's network: [Errno 3]" in ended.err
    assert "OSError: [Errno 100]" in ended.err


@pytest.mark.parametrize(
    ("stack", "address"),
    [
        (STACKS["memory"], "10.9.0.1"),
        pytest.param(STACKS["lwip"], "10.9.0.1", marks=pytest.mark.needs("lwip")),
        pytest.param(STACKS["vdestack"], "10.9.0.1", marks=pytest.mark.needs("vdestack")),
        ("host", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("outer", ["memory", pytest.param("vdestack", marks=HAS_VDESTACK)])
def test_a_child_may_be_run_on_a_stack_of_its_own(outer: str, stack: str, address: str) -> None:
    told = f"import socket; s = socket.create_server(({address!r}, 0)); s.close(); print('served')"
    nested = ["-m", "vpoll_asyncio", "run", "--stack", stack, "-c", told]
    code = f"import subprocess, sys; subprocess.run([sys.executable, *{nested!r}], check=True)"
    assert run(outer, "-c", code) == (0, "served\n", "")


def test_a_childs_own_sitecustomize_is_imported(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.own = 'imported'\n")
    told = "import sitecustomize, sys; print(sys.own, sitecustomize.__file__)"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {told!r}], check=True)"
    ended = run("memory", "-c", code, PYTHONPATH=path)
    assert ended == (0, f"imported {tmp_path / 'sitecustomize.py'}\n", "")


def test_a_childs_search_path_is_what_it_would_be() -> None:
    told = "import sys; print(sys.path)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {told!r}], check=True)"
    assert run("memory", "-c", code).out == python("-c", code, cwd=APPS).out


@pytest.mark.needs("vdestack")
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing_hands_a_listener_to_a_child(method: str, tmp_path: Path) -> None:
    (tmp_path / "hands.py").write_text(
        """
import multiprocessing, socket

def serve(listener):
    accepted, _ = listener.accept()
    with listener, accepted:
        accepted.sendall(b"from the child")

if __name__ == "__main__":
    with socket.create_server(("10.9.0.1", 80)) as listener:
        child = multiprocessing.get_context(METHOD).Process(target=serve, args=(listener,))
        child.start()
    with socket.create_connection(("10.9.0.1", 80)) as sock:
        print(sock.recv(100).decode())
    child.join()
    print(child.exitcode)
""".replace("METHOD", repr(method))
    )
    ended = run("vdestack", str(tmp_path / "hands.py"))
    assert ended == (0, "from the child\n0\n", "")


@IN_A_PROCESS
def test_a_socket_of_a_stack_in_the_process_cannot_be_handed_to_a_child(stack: str) -> None:
    code = """
import multiprocessing, socket
with socket.socket() as sock:
    multiprocessing.get_context("spawn").Process(target=print, args=(sock,)).start()
"""
    ended = run(stack, "-c", code)
    assert ended.status == 1
    assert "TypeError: cannot pickle" in ended.err


def test_help_names_the_choices() -> None:
    ended = python("-m", "vpoll_asyncio", "run", "--help")
    assert "--children {stack,refuse,host}" in ended.out


SERVED = """
import http.client, os, signal, socket, sys, threading, time
import uvicorn

def ask():
    for _ in range(3000):
        try:
            socket.create_connection(("10.9.0.1", 80)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
    connection = http.client.HTTPConnection("10.9.0.1")
    connection.request("GET", "/")
    print(connection.getresponse().status, flush=True)
    connection.close()
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    threading.Thread(target=ask).start()
    uvicorn.run("asgi_app:app", host="10.9.0.1", port=80, log_level="error", OPTION)
"""


@pytest.mark.needs("vdestack", "uvicorn")
@pytest.mark.parametrize("option", ["workers=2", "reload=True"])
def test_processes_of_uvicorn_serve_on_it(option: str, tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(SERVED.replace("OPTION", option))
    ended = run("vdestack", str(tmp_path / "served.py"), PYTHONPATH=f"{ROOT}:{APPS}")
    assert ended.out == "200\n", ended.err
