"""The pytest plugin: its fixtures, its options, and suites that know nothing of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")

PLAIN = """
import asyncio
import socket
import unittest

import pytest
import vpoll_asyncio as va


async def shout(reader, writer):
    writer.write((await reader.readline()).upper())
    writer.close()


async def exchange():
    async with await asyncio.start_server(shout, "127.0.0.1", 7):
        reader, writer = await asyncio.open_connection("localhost", 7)
        writer.write(b"hello\\n")
        assert await reader.read() == b"HELLO\\n"
        writer.close()
    where = va.current_stack().name
    print(f"<{where} {type(asyncio.get_running_loop()).__name__}>")


@pytest.mark.asyncio
async def test_pytest_asyncio():
    await exchange()


@pytest.mark.anyio
async def test_anyio():
    await exchange()


def test_run():
    asyncio.run(exchange())


class TestOfUnittest(unittest.IsolatedAsyncioTestCase):
    async def test_unittest(self):
        await exchange()


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
"""A suite that imports nothing of the plugin's and connects to its own port 7."""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A place for another suite, which runs with the plugin."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    # Else lwIP's shim would be compiled anew: the place has a home of its own.
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    pytester.makeini(
        """
        [pytest]
        asyncio_default_fixture_loop_scope = function
        filterwarnings = error
        """
    )
    return pytester


# Where the package is installed, pytest finds the plugin by its entry point.
INSTALLED = any(each.name == "pytest_vpoll_asyncio" for each in entry_points(group="pytest11"))
OPTIONS = (*(() if INSTALLED else ("-p", "pytest_vpoll_asyncio")), "-p", "no:cacheprovider")


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_inprocess(*OPTIONS, *arguments)


def places(result: pytest.RunResult) -> list[str]:
    """What the tests of `PLAIN` have printed, sorted."""
    return sorted(line for line in result.outlines if line.startswith("<"))


# Suites that do not use it.


def test_importing_the_plugin_imports_neither_the_library_nor_asyncio() -> None:
    program = (
        "import pytest, sys; before = set(sys.modules); import pytest_vpoll_asyncio; "
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("['pytest_vpoll_asyncio']\n", "")


def test_suite_that_does_not_use_it_is_left_alone(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import sys

        import pytest

        @pytest.fixture
        def network():
            return "my own"

        @pytest.fixture
        def stack(network):
            return ["my own"]

        def test_own_fixtures(network, stack, request):
            assert (network, stack) == ("my own", ["my own"])
            assert request.node.name == "test_own_fixtures"
            assert not [name for name in request.fixturenames if "vpoll" in name]

        def test_library_is_not_imported():
            assert "vpoll_asyncio" not in sys.modules
        """
    )
    options = (*OPTIONS, "--strict-config", "--strict-markers")
    suite.runpytest_subprocess(*options, timeout=120).assert_outcomes(passed=2)


# The network.


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_network_serves_every_kind_of_test(suite: pytest.Pytester, mode: str) -> None:
    suite.makepyfile(
        """
        import asyncio

        import pytest


        async def shout(reader, writer):
            writer.write((await reader.readline()).upper())
            writer.close()


        @pytest.fixture
        def server(network):
            return network.host("server", "10.0.0.1")


        async def exchange(network, server):
            with server.activate():
                listening = await asyncio.start_server(shout, port=80)
            async with listening:
                with network.host("client").activate():
                    reader, writer = await asyncio.open_connection("server", 80)
                    writer.write(b"hello\\n")
                    assert await reader.read() == b"HELLO\\n"
                    writer.close()


        @pytest.mark.asyncio
        async def test_pytest_asyncio(network, server):
            await exchange(network, server)


        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_anyio(network, server, anyio_backend):
            await exchange(network, server)


        def test_run(network, server):
            asyncio.run(exchange(network, server))
        """
    )
    run(suite, f"--asyncio-mode={mode}").assert_outcomes(passed=3)


def test_host_that_a_fixture_activates_is_the_tests(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import asyncio

        import pytest
        import pytest_asyncio
        import vpoll_asyncio as va


        @pytest.fixture
        def client(network):
            with network.host("client").activate() as client:
                yield client


        def test_plain(client):
            assert va.current_stack() is client


        @pytest.mark.asyncio
        async def test_pytest_asyncio(client):
            assert va.current_stack() is client


        @pytest_asyncio.fixture
        async def server(network):
            with network.host("server").activate() as server:
                async with await asyncio.start_server(lambda _, writer: writer.close(), port=80):
                    yield server


        @pytest.mark.asyncio
        async def test_with_a_server(server, client):
            assert va.current_stack() is client
            reader, writer = await asyncio.open_connection("server", 80)
            assert await reader.read() == b""
            writer.close()


        @pytest.fixture
        async def host(network):
            with network.host("host").activate() as host:
                yield host


        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_anyio(anyio_backend, host):
            assert va.current_stack() is host
        """
    )
    run(suite).assert_outcomes(passed=4)


def test_network_takes_the_place_of_the_stack_of_the_run(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import socket
        import pytest
        import vpoll_asyncio as va

        def test_network(stack, network):
            with pytest.raises(OSError, match="none of its hosts is active"):
                socket.socket()
            with network.host("host").activate() as host, socket.socket() as sock:
                assert sock.stack is host

        def test_stack(stack):
            with socket.socket() as sock:
                assert sock.stack is stack
        """
    )
    run(suite, "--vpoll-stack", "memory").assert_outcomes(passed=2)


def test_failure_names_the_seed_and_repeats_with_it(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_fails(network):\n    assert not network.seed")
    result = run(suite)
    line = next(line for line in result.outlines if line.startswith("seed "))
    seed = line.split()[1]
    assert line == f"seed {seed} (rerun with --vpoll-seed {seed})"
    assert "vpoll_asyncio network" in result.outlines[result.outlines.index(line) - 1]
    run(suite, "--vpoll-seed", seed).stdout.fnmatch_lines([f"E*assert not {seed}"])


def test_seed_may_be_in_the_configuration(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\nvpoll_seed = 0x10\nasyncio_default_fixture_loop_scope = function")
    suite.makepyfile("def test_seed(network, vpoll_seed):\n    assert network.seed == 16")
    run(suite).assert_outcomes(passed=1)


def test_failure_without_a_network_names_no_seed(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_fails():\n    assert False")
    assert "vpoll" not in run(suite, "--no-header").stdout.str()


# A whole suite on a stack, a loop, a backend.


@pytest.mark.parametrize(
    "stack",
    [
        "memory",
        pytest.param("lwip", marks=pytest.mark.needs("lwip")),
        pytest.param("vdestack", marks=pytest.mark.needs("vdestack")),
    ],
)
def test_every_kind_of_test_runs_on_the_stack(suite: pytest.Pytester, stack: str) -> None:
    suite.makepyfile(PLAIN)
    result = run(suite, "--vpoll-stack", stack, "-rP")
    result.assert_outcomes(passed=4)
    assert [place.split()[0] for place in places(result)] == [f"<{stack}"] * 4


@pytest.mark.parametrize(
    ("loop", "kind"),
    [
        ("asyncio", "EventLoop"),
        pytest.param("uvloop", "UvloopEventLoop", marks=pytest.mark.needs("uvloop")),
    ],
)
def test_every_kind_of_test_runs_on_the_loop(suite: pytest.Pytester, loop: str, kind: str) -> None:
    suite.makepyfile(PLAIN)
    result = run(suite, "--vpoll-loop", loop, "--vpoll-stack", "memory", "-rP")
    result.assert_outcomes(passed=4)
    assert places(result) == [f"<memory {kind}>"] * 4
    assert not [line for line in result.outlines if line.startswith("_") and "[" in line]


@pytest.mark.needs("uvloop")
def test_several_values_run_each_test_with_each(suite: pytest.Pytester) -> None:
    suite.makepyfile(PLAIN)
    suite.makeini(
        """
        [pytest]
        asyncio_default_fixture_loop_scope = function
        vpoll_loop = asyncio, uvloop
        vpoll_stack =
            memory
            stack=memory,ip=10.0.0.1/24,name=addressed
        """
    )
    result = run(suite, "-v", "-k", "not TestOfUnittest")
    result.assert_outcomes(passed=12)
    names = {line.split()[0].partition("::")[2] for line in result.outlines if "PASSED" in line}
    assert {name for name in names if name.startswith("test_run")} == {
        f"test_run[{stack}-{loop}]"
        for stack in ("memory", "addressed")
        for loop in ("asyncio", "uvloop")
    }
    assert len(names) == 12
    for name in names:
        assert {"asyncio", "uvloop"} & set(name.rstrip("]").replace("[", "-").split("-"))


@pytest.mark.needs("uvloop")
def test_loops_that_live_longer_are_made_anew_for_each_kind(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import asyncio
        import pytest
        import pytest_asyncio

        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest_asyncio.fixture(loop_scope="module", scope="module")
        async def made_on():
            return asyncio.get_running_loop()

        @pytest.mark.parametrize("number", range(2))
        async def test_loop(made_on, number):
            assert asyncio.get_running_loop() is made_on
            print(f"<{number} {type(made_on).__name__}>")

        async def test_factory(loop_factory):
            loop = loop_factory()
            assert type(loop) is type(asyncio.get_running_loop())
            loop.close()
        """
    )
    result = run(suite, "--vpoll-loop", "asyncio,uvloop", "-rP")
    result.assert_outcomes(passed=6)
    kinds = ("EventLoop", "UvloopEventLoop")
    assert places(result) == sorted(f"<{number} {kind}>" for number in range(2) for kind in kinds)


@pytest.mark.needs("uvloop")
def test_tests_of_unittest_run_once_and_a_warning_says_so(suite: pytest.Pytester) -> None:
    suite.makepyfile(PLAIN)
    suite.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    result = run(suite, "--vpoll-loop", "asyncio,uvloop", "-k", "TestOfUnittest")
    result.assert_outcomes(passed=1, warnings=1, deselected=6)
    result.stdout.fnmatch_lines(["*1 tests of unittest.TestCase*run once only*"])


@pytest.mark.parametrize("scope", ["module", "session"])
def test_longer_fixtures_share_a_stack_of_their_scope(suite: pytest.Pytester, scope: str) -> None:
    suite.makepyfile(
        f"""
        import socket
        import pytest

        @pytest.fixture(scope="{scope}")
        def listener():
            with socket.create_server(("127.0.0.1", 80)) as sock:
                yield sock

        def test_one(listener, stack):
            assert listener.stack is stack
            socket.create_connection(("127.0.0.1", 80)).close()

        def test_two(listener, stack):
            assert listener.stack is stack
            listener.accept()[0].close()
        """
    )
    options = ("--vpoll-stack", "memory")
    run(suite, *options, "--vpoll-stack-scope", scope).assert_outcomes(passed=2)
    refused = run(suite, *options)
    refused.assert_outcomes(errors=2)
    refused.stdout.fnmatch_lines(["*--vpoll-stack-scope session*"])


def test_what_a_suite_imports_from_the_socket_module_is_the_stacks(suite: pytest.Pytester) -> None:
    program = "from socket import create_server, getaddrinfo, socket"
    suite.makeconftest(program)
    suite.makepyfile(
        program
        + """
import conftest

def test_sockets():
    with socket() as mine, conftest.socket() as the_confs:
        assert mine.stack is the_confs.stack

def test_names():
    try:
        conftest.getaddrinfo("name.invalid", 80)
    except OSError as error:
        assert "on the memory stack" in str(error)
"""
    )
    run(suite, "--vpoll-stack", "memory").assert_outcomes(passed=2)


def test_each_test_has_a_stack_of_its_own(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import socket
        import pytest

        left = []

        @pytest.mark.parametrize("number", range(3))
        def test_takes_the_port(number):
            left.append(socket.create_server(("127.0.0.1", 80)))

        def teardown_module():
            for sock in left:
                sock.close()
        """
    )
    run(suite, "--vpoll-stack", "memory").assert_outcomes(passed=3)


def test_every_test_uses_the_backend(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import vpoll_asyncio as va

        def test_shown():
            with va.VPoll() as vpoll:
                vpoll.fileno()
                assert vpoll.backend == "tcppair"
        """
    )
    run(suite, "--vpoll-backend", "tcppair").assert_outcomes(passed=1)


def test_fixtures_run_over_what_is_there_without_options(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import asyncio
        import vpoll_asyncio as va

        def test_backend(vpoll_backend):
            with va.VPoll() as vpoll:
                vpoll.fileno()
                assert vpoll.backend == vpoll_backend
                print(f"<{vpoll_backend}>")

        def test_loop(loop_factory):
            async def main():
                return type(asyncio.get_running_loop()).__name__

            with asyncio.Runner(loop_factory=loop_factory) as runner:
                print(f"<{runner.run(main())}>")

        def test_stack(stack):
            assert va.current_stack() is stack
            print(f"<{stack.name}>")
        """
    )
    result = run(suite, "-rP")
    said = set(places(result))
    assert {"<unixpair>", "<tcppair>", "<EventLoop>", "<memory>"} <= said
    assert "<virtual>" not in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--vpoll-stack", "lwpi"], "*no stack 'lwpi': expected one of*memory*"),
        (["--vpoll-stack", "stack=memory,adress=1"], "*memory has no option 'adress': it takes*"),
        (["--vpoll-stack", "ip=10.0.0.1"], "*needs exactly one stack=NAME*"),
        (["--vpoll-stack-scope", "test"], "*'test': expected one of function, class*"),
        (
            ["--vpoll-loop", "asyncio,trio"],
            "*no event loop 'trio': expected 'asyncio' or 'uvloop'*",
        ),
        (["--vpoll-backend", "pair"], "*no vpoll backend 'pair': expected some of*unixpair*"),
        (["--vpoll-seed", "lucky"], "*--vpoll-seed 'lucky': expected an integer*"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_value_is_a_usage_error(
    suite: pytest.Pytester, arguments: list[str], says: str
) -> None:
    suite.makepyfile("def test_nothing():\n    pass")
    result = run(suite, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {says}"])


def test_value_that_the_stack_refuses_says_what_it_expects(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_nothing():\n    pass")
    result = run(suite, "--vpoll-stack", "stack=memory,ip=10.0.0")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*--vpoll-stack 'stack=memory,ip=10.0.0': *expected one like*"])


def test_options_reach_a_worker_of_xdist(suite: pytest.Pytester) -> None:
    suite.makepyfile(PLAIN + "\n\ndef test_seed(network):\n    print(f'<seed {network.seed}>')\n")
    result = run(suite, "-n1", "--vpoll-stack", "memory", "--vpoll-seed", "7", "-rP")
    result.assert_outcomes(passed=5)
    assert places(result)[-1] == "<seed 7>"


# The documentation.


def test_reference_has_every_fixture_and_option(suite: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "reference" / "pytest-plugin.md").read_text()
    shown = run(suite, "--fixtures").stdout.str()
    fixtures = re.findall(r"^(\w+)(?: \[.*\])? -- .*\bpytest_vpoll_asyncio/__init__", shown, re.M)
    options = re.findall(r"^ +(--vpoll-[\w-]+)[= ]", run(suite, "--help").stdout.str(), re.M)
    assert fixtures
    assert options
    assert set(fixtures) == set(re.findall(r"^\| `(\w+)` \| (?:function|of `--)", page, re.M))
    assert set(options) == set(re.findall(r"^\| `(--[\w-]+) [A-Z]+` \|", page, re.M))
