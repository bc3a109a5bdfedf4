"""Marks, fixtures and the rule that CI skips nothing that its machine can run."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator

import hypothesis
import pytest

from needs import CHECKS, STOCK_KERNELS_LACK, missing
from scale import SCALE

SKIPS_ARE_FAILURES = os.environ.get("CI") == "true" and os.geteuid() == 0

_may_skip = pytest.StashKey[bool]()

if SCALE > 1:
    hypothesis.settings.register_profile(
        "slow machine",
        max_examples=25,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("slow machine")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # As a shell's background jobs have it; asyncio then leaves Ctrl-C alone.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        f"needs(*names): skip, with the reason, where one of them is missing: {', '.join(CHECKS)}",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("needs"):
            if unknown := set(marker.args) - CHECKS.keys():
                raise pytest.UsageError(
                    f"{item.nodeid}: needs{marker.args}: unknown {sorted(unknown)}; "
                    f"expected some of {sorted(CHECKS)} (tests/needs.py)"
                )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    names = [name for marker in item.iter_markers("needs") for name in marker.args]
    lacking = {name: reason for name in names if (reason := missing(name))}
    if lacking:
        item.stash[_may_skip] = bool(STOCK_KERNELS_LACK & lacking.keys())
        pytest.skip("; ".join(f"needs {name}: {reason}" for name, reason in lacking.items()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (
        SKIPS_ARE_FAILURES
        and report.skipped
        and not hasattr(report, "wasxfail")
        and not item.stash.get(_may_skip, False)
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything must run: {report.longreprtext}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if SKIPS_ARE_FAILURES and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything must run: {report.longreprtext}"
    return report


def _descriptors() -> dict[int, str]:
    held = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            held[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return held


@pytest.fixture(scope="session")
def libuvs_own_pipe() -> None:
    """Let libuv open the pipe that it keeps from a process's first loop to its end."""
    if missing("uvloop") is None:
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture
def no_fd_leak(libuvs_own_pipe: None) -> Iterator[None]:
    """Fail the test when the process holds other descriptors after it than before."""
    gc.collect()
    before = _descriptors()
    yield
    gc.collect()
    after = _descriptors()
    leaked = sorted(after.items() - before.items())
    lost = sorted(before.items() - after.items())
    assert not leaked, f"descriptors leaked: {leaked}"
    assert not lost, f"descriptors of others were closed: {lost}"
