"""The pytest plugin of vpoll_asyncio: hermetic networks, and a suite over another stack or loop.

pytest loads it with every suite of the environment, so it imports vpoll_asyncio only for
tests that use one of its fixtures, and for runs with one of its options.  What these do
is in `vpoll_asyncio.testing.pytest_plugin`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    import asyncio

    from vpoll_asyncio.stacks import Stack
    from vpoll_asyncio.testing import Network

_SEED: Final = pytest.StashKey[int]()
_SCOPES: Final = ("function", "class", "module", "package", "session")

_BACKEND: Final = (
    "run every test with vpolls that are shown to the kernel's pollers by this backend; several, "
    "as a list or by several options: each test with each"
)
_LOOP: Final = (
    "run every test on vpoll_asyncio's event loop of this kind, whichever it asks for; several: "
    "each test on each"
)
_STACK: Final = (
    "run every test on a stack of its own: its name or what vpoll_asyncio.open_stack takes "
    "(stack=lwip,vnl=…), with name=LABEL for another name in the tests' ids; several options: each "
    "test on each"
)
_LISTS: Final = {
    "vpoll_backend": ("NAME[,NAME]", _BACKEND),
    "vpoll_loop": ("asyncio|uvloop[,…]", _LOOP),
    "vpoll_stack": ("CONFIG", _STACK),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options, each also for the configuration file."""
    group = parser.getgroup("vpoll_asyncio")
    for name, (metavar, text) in _LISTS.items():
        option = f"--{name.replace('_', '-')}"
        group.addoption(option, action="append", metavar=metavar, help=text)
        parser.addini(name, f"as {option}, one a line", type="linelist")
    group.addoption(
        "--vpoll-stack-scope",
        metavar="SCOPE",
        help="how long a stack of --vpoll-stack lives: function (each test has its own, the "
        "default), class, module, package or session, which fixtures of that scope share",
    )
    parser.addini("vpoll_stack_scope", "as --vpoll-stack-scope")
    group.addoption(
        "--vpoll-seed",
        metavar="INT",
        help="what the losses and delays of the fixture `network` are drawn from; without it "
        "each test draws one, which the report of its failure names",
    )
    parser.addini("vpoll_seed", "as --vpoll-seed")


def _value(config: pytest.Config, name: str) -> Any:
    """Return what the command line says, else what the configuration file does."""
    given = config.getoption(name)
    return config.getini(name) if given is None else given


def _seed(config: pytest.Config) -> int | None:
    text = _value(config, "vpoll_seed")
    if not text:
        return None
    try:
        return int(text, 0)
    except ValueError:
        raise pytest.UsageError(
            f"--vpoll-seed {text!r}: expected an integer, as the report of a failure names it"
        ) from None


def _scope(config: pytest.Config) -> str:
    text = _value(config, "vpoll_stack_scope") or _SCOPES[0]
    if text not in _SCOPES:
        raise pytest.UsageError(
            f"--vpoll-stack-scope {text!r}: expected one of {', '.join(_SCOPES)}"
        )
    return str(text)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Have what the suite takes from the socket module follow the stack of ``--vpoll-stack``."""
    given = early_config.known_args_namespace.vpoll_stack
    if given or early_config.getini("vpoll_stack"):
        from vpoll_asyncio.testing import pytest_plugin

        pytest_plugin.install_early(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Check the options' values, and have every test obey those that are given.

    Raises pytest.UsageError for a value that is wrong.
    """
    _seed(config)
    scope = _scope(config)
    chosen = {name: _value(config, name) for name in _LISTS}
    if any(chosen.values()):
        from vpoll_asyncio.testing import pytest_plugin

        pytest_plugin.obey(config, chosen, scope)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with each of several stacks, loops or backends."""
    if any(name.startswith("_vpoll_") for name in metafunc.fixturenames):
        from vpoll_asyncio.testing import pytest_plugin

        pytest_plugin.parametrize(metafunc, _scope(metafunc.config))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Name the seed in the report of a test that failed with a network."""
    report = yield
    seed = item.stash.get(_SEED, None)
    if seed is not None and report.failed:
        text = f"seed {seed} (rerun with --vpoll-seed {seed})"
        report.sections.append(("vpoll_asyncio network", text))
    return report


@pytest.fixture
def vpoll_seed(request: pytest.FixtureRequest) -> int:
    """The seed of the test's network: that of ``--vpoll-seed``, else one that is drawn.

    If the test fails, its report names it.
    """
    seed = _seed(request.config)
    if seed is None:
        from random import SystemRandom

        seed = SystemRandom().getrandbits(32)
    request.node.stash[_SEED] = seed
    return seed


@pytest.fixture
def network(vpoll_seed: int) -> Iterator[Network]:
    """A hermetic network of hosts in the test's process: a `vpoll_asyncio.testing.Network`.

    ``network.host("server", "10.0.0.1").activate()`` runs code as that host.  As long as
    the test lasts code that is no host's is refused AF_INET and AF_INET6.
    """
    from vpoll_asyncio.testing import Network

    with Network(seed=vpoll_seed) as opened:
        yield opened


def _stack_scope(fixture_name: str, config: pytest.Config) -> Any:
    return _scope(config)


@pytest.fixture(scope=_stack_scope)
def _vpoll_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    from vpoll_asyncio.testing import pytest_plugin

    yield from pytest_plugin.on_stack(request)


@pytest.fixture(scope="session")
def _vpoll_loop(request: pytest.FixtureRequest) -> Iterator[str | None]:
    from vpoll_asyncio.testing import pytest_plugin

    yield from pytest_plugin.on_loop(request)


@pytest.fixture
def _vpoll_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    from vpoll_asyncio.testing import pytest_plugin

    yield from pytest_plugin.with_backend(request)


@pytest.fixture(scope=_stack_scope)
def stack(_vpoll_stack: Stack) -> Stack:
    """The open stack that the test runs on: the default of its process, whatever its loop.

    One of ``--vpoll-stack``, without that a new memory stack.
    """
    return _vpoll_stack


@pytest.fixture
def loop_factory(
    request: pytest.FixtureRequest, _vpoll_loop: str | None
) -> Callable[[], asyncio.AbstractEventLoop]:
    """A function that makes a new event loop, for `asyncio.Runner` and its like.

    One of ``--vpoll-loop``; without that each test runs with `EventLoop` and, where
    uvloop is installed, with `UvloopEventLoop`.
    """
    from vpoll_asyncio.testing import pytest_plugin

    return pytest_plugin.factory(request, _vpoll_loop)


@pytest.fixture
def vpoll_backend(_vpoll_backend: str) -> str:
    """The name of the backend by which vpolls show themselves to the kernel's pollers.

    One of ``--vpoll-backend``; without that each test runs with every one that this
    machine has and the kernel sees.
    """
    return _vpoll_backend
