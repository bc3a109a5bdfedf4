"""What the options and fixtures of the pytest plugin do, once one of them is used.

pytest is told of them by `pytest_vpoll_asyncio`, which alone it imports with every suite.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import pytest

from ..install import install
from ..loops import new_event_loop
from ..program.loops import loops_made_ours, uvloop_module
from ..stacks import Stack, open_stack
from .choices import (
    StackChoice,
    backend_names,
    loop_names,
    names_of_stacks,
    stack_choices,
    usable_backends,
    usable_loops,
)
from .hermetic import RefusingStack, isolated

if TYPE_CHECKING:
    import asyncio

__all__ = ["factory", "install_early", "obey", "on_loop", "on_stack", "parametrize", "with_backend"]

_BACKENDS: Final = pytest.StashKey[list[str]]()
_LOOPS: Final = pytest.StashKey[list[str]]()
_STACKS: Final = pytest.StashKey[list[StackChoice]]()
_SCOPE: Final = pytest.StashKey[Any]()

# By this name pytest-asyncio parametrises a test with what its hook returned.
_OF_PYTEST_ASYNCIO: Final = "_asyncio_loop_factory"


def install_early(config: pytest.Config) -> None:
    """Put `install` in force until the run ends.

    What conftest.py, the tests and the project that they test take from the socket module
    when they are imported is then what dispatches on the current stack.
    """
    steps = contextlib.ExitStack()
    # It imports uvloop, which takes the kernel's names.
    uvloop_module()
    steps.enter_context(install())
    config.add_cleanup(steps.close)


def obey(config: pytest.Config, chosen: dict[str, list[str]], scope: str) -> None:
    """Have every test of the run use what the options say.

    chosen -- the values of ``vpoll_backend``, ``vpoll_loop`` and ``vpoll_stack``
    scope -- of ``--vpoll-stack-scope``

    Raises pytest.UsageError for a value that is wrong.
    """
    checks: dict[str, tuple[Any, Callable[[Sequence[str]], list[Any]]]] = {
        "vpoll_backend": (_BACKENDS, backend_names),
        "vpoll_loop": (_LOOPS, loop_names),
        "vpoll_stack": (_STACKS, stack_choices),
    }
    for name, (key, check) in checks.items():
        if chosen[name]:
            try:
                config.stash[key] = check(chosen[name])
            except ValueError as error:
                option = f"--{name.replace('_', '-')}"
                raise pytest.UsageError(f"{option}: {error}") from None
    plugin = config.pluginmanager.register
    plugin(_Header())
    if _BACKENDS in config.stash:
        plugin(_EveryTestWithBackend())
    if _LOOPS in config.stash:
        plugin(_EveryTestOnLoop())
        if len(config.stash[_LOOPS]) > 1:
            plugin(_Factories())
    if _STACKS in config.stash:
        config.stash[_SCOPE] = scope
        if scope != "session":
            plugin(_NoStackBetweenTests())
        plugin(_EveryTestOnStack())


class _Header:
    """Says at the beginning what the tests use, and warns where they cannot."""

    @pytest.hookimpl
    def pytest_report_header(self, config: pytest.Config) -> str:
        said = []
        keys: list[tuple[Any, str]] = [(_STACKS, "stack"), (_LOOPS, "loop"), (_BACKENDS, "backend")]
        for key, name in keys:
            values: list[Any] = config.stash.get(key, [])
            if values:
                texts = [getattr(value, "config", value) for value in values]
                said.append(f"{name} {' | '.join(texts)}")
        return f"vpoll_asyncio: {'; '.join(said)}"

    @pytest.hookimpl
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        keys: list[Any] = [_STACKS, _LOOPS, _BACKENDS]
        several = any(len(config.stash.get(key, [])) > 1 for key in keys)
        once = [
            item
            for item in items
            if several and isinstance(item, pytest.Function) and _is_unittest(item)
        ]
        if once:
            config.issue_config_time_warning(
                pytest.PytestWarning(
                    f"{len(once)} tests of unittest.TestCase ({once[0].nodeid} …) run once only, "
                    "with the first stack and backend and the kind of loop that they ask for: "
                    "pytest parametrises no such test. Run pytest once for each value of "
                    "--vpoll-stack, --vpoll-loop and --vpoll-backend"
                ),
                2,
            )


def _is_unittest(item: pytest.Function) -> bool:
    from unittest import TestCase

    return isinstance(item.cls, type) and issubclass(item.cls, TestCase)


class _EveryTestWithBackend:
    @pytest.fixture(autouse=True)
    @staticmethod
    def _vpoll_backend_for_all(_vpoll_backend: str) -> None:
        pass


class _EveryTestOnLoop:
    @pytest.fixture(autouse=True, scope="session")
    @staticmethod
    def _vpoll_loop_for_all(_vpoll_loop: str | None) -> None:
        pass


class _EveryTestOnStack:
    @pytest.fixture(
        autouse=True,
        scope=lambda fixture_name, config: config.stash[_SCOPE],
    )
    @staticmethod
    def _vpoll_stack_for_all(_vpoll_stack: Stack) -> None:
        pass


class _NoStackBetweenTests:
    @pytest.fixture(autouse=True, scope="session")
    @staticmethod
    def _vpoll_no_network() -> Iterator[None]:
        reason = (
            "a fixture that lives longer than the stack of --vpoll-stack has no network: give the "
            "stack the fixture's scope (--vpoll-stack-scope session)"
        )
        with isolated(RefusingStack(reason)):
            yield


class _Factories:
    """Tells pytest-asyncio of several loops: it makes a test of each, and its runners anew."""

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_asyncio_loop_factories(
        self, config: pytest.Config, item: pytest.Item
    ) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        return {name: _factory(name) for name in config.stash[_LOOPS]}


def _factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    return functools.partial(new_event_loop, loop=name)


def parametrize(metafunc: pytest.Metafunc, scope: str) -> None:
    """Run the test with each of several choices, for what it uses of the plugin's fixtures.

    scope -- of a stack
    """
    stash = metafunc.config.stash
    if "_vpoll_stack" in metafunc.fixturenames:
        stacks = stash.get(_STACKS, [])
        if len(stacks) > 1:
            _each(metafunc, "_vpoll_stack", stacks, names_of_stacks(stacks), scope)
    # A test that pytest-asyncio has made of each loop is not made again.
    if "_vpoll_loop" in metafunc.fixturenames and _OF_PYTEST_ASYNCIO not in metafunc.fixturenames:
        loops = stash.get(_LOOPS, None) or usable_loops()
        if len(loops) > 1:
            _each(metafunc, "_vpoll_loop", loops, loops, "session")
    if "_vpoll_backend" in metafunc.fixturenames:
        names = stash.get(_BACKENDS, None) or usable_backends()
        if len(names) > 1:
            _each(metafunc, "_vpoll_backend", names, names, "function")


def _each(
    metafunc: pytest.Metafunc, name: str, values: Sequence[Any], ids: Sequence[str], scope: Any
) -> None:
    metafunc.parametrize(name, values, ids=ids, indirect=True, scope=scope)


def _param(request: pytest.FixtureRequest, first: Any) -> Any:
    return getattr(request, "param", first)


def on_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Yield the open stack of the fixture `stack`, the process's default meanwhile.

    Raises pytest.UsageError for an option's value that the stack refuses.
    """
    chosen = request.config.stash.get(_STACKS, None) or stack_choices(["memory"])
    choice = _param(request, chosen[0])
    try:
        stack = open_stack(choice.name, **choice.options)
    except ValueError as error:
        raise pytest.UsageError(f"--vpoll-stack {choice.config!r}: {error}") from None
    with stack, isolated(stack):
        yield stack


def on_loop(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Yield the name of the loop that the test's loops are made as, None for whichever it asks."""
    chosen = request.config.stash.get(_LOOPS, None) or usable_loops()
    made = _param(request, chosen[0] if len(chosen) == 1 else None)
    with loops_made_ours(made):
        yield made


def factory(
    request: pytest.FixtureRequest, loop: str | None
) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes loops of the kind that the test runs on.

    loop -- its name, None where pytest-asyncio has chosen among several
    """
    if loop is not None:
        return _factory(loop)
    params: dict[str, Any] = request.node.callspec.params
    made: Callable[[], asyncio.AbstractEventLoop] = params[_OF_PYTEST_ASYNCIO]
    return made


def with_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the name of the backend that every vpoll shows itself by meanwhile."""
    chosen = request.config.stash.get(_BACKENDS, None) or usable_backends()
    name: str = _param(request, chosen[0])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VPOLL_BACKEND", name)
        yield name
