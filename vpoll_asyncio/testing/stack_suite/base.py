"""How a stack's author subclasses the suite, and how he declares where his stack differs."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import pytest

from .lab import BOUND, Hosts, Lab

__all__ = ["Difference", "SuiteBase"]

_KEY: Final = re.compile(r"(?P<test>\w+)(?:\[(?P<case>.+)\])?$")
_RULE: Final = re.compile(r"(?P<program>[A-Z]\w*)\.(?P<rule>\w+)$")
# A declared difference most often shows in that a state does not come.
_BOUND_OF_DIFFERENCES: Final = 0.2

# What a test that does not hold raises; anything else is a fault of the test or the stack.
_FAILURES: Final = (AssertionError, OSError, pytest.fail.Exception)


@dataclass(frozen=True)
class Difference:
    """Something in which a stack is not like Linux, on purpose.

    reason -- what the stack does, for its users: a cell of a Markdown table
    instead -- a test of that, given a `Lab`: it runs after the suite's own test has been
        seen to fail
    run -- whether that is tried; False where the suite's test would take down the process
        or wait for minutes
    """

    reason: str
    instead: Callable[[Lab], object] | None = None
    run: bool = True


class SuiteBase:
    """What all parts of the suite have in common."""

    differences: ClassVar[Mapping[str, Difference]] = {}
    """By the name of a test, ``test_name[case]`` for some of its cases, ``Program.rule`` for a
    step that random programs are to leave out, or the name of a whole part of the suite,
    ``DatagramTests``, none of which is then run: ``run=False``."""

    bound: ClassVar[float] = BOUND
    """Seconds after which a state that should come has not come."""

    examples: ClassVar[int] = 15
    """How many random programs of each kind are run."""

    cases: tuple[str, ...] = ()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "differences" not in vars(cls):
            return
        declared: dict[str, dict[str, Difference]] = {}
        for key, difference in cls.differences.items():
            if found := _RULE.fullmatch(key):
                cls.check_rule(found["program"], found["rule"])
                continue
            if tests := cls._tests_of(key):
                if difference.run:
                    raise ValueError(
                        f"{cls.__name__}.differences names all of {key}, of which some may hold: "
                        "expected Difference(..., run=False), or the names of its tests"
                    )
                for name in tests:
                    declared.setdefault(name, {}).setdefault("", difference)
                continue
            found = _KEY.fullmatch(key)
            if found is None or not hasattr(cls, found["test"]):
                close = difflib.get_close_matches(key.partition("[")[0], dir(cls), 3)
                raise ValueError(
                    f"{cls.__name__}.differences names {key!r}, which is no test of the suite; "
                    f"expected one like {', '.join(close) or 'test_connected'}"
                )
            declared.setdefault(found["test"], {})[found["case"] or ""] = difference
        for name, by_case in declared.items():
            test = getattr(cls, name)
            setattr(cls, name, _differing(getattr(test, "__wrapped__", test), by_case))

    @classmethod
    def check_rule(cls, program: str, rule: str) -> None:
        """Raise ValueError when `program` has no `rule` to leave out."""

    @classmethod
    def _tests_of(cls, part: str) -> list[str]:
        """Return the names of the tests of the suite's part ``part``; none when there is none."""
        parts = [base for base in cls.__mro__[1:] if base.__name__ == part]
        return [name for base in parts for name in vars(base) if name.startswith("test_")]

    @pytest.fixture
    def hosts(self) -> Hosts | Iterator[Hosts]:
        """Two connected hosts of the stack: to be overridden."""
        raise NotImplementedError(
            f"{type(self).__name__} must have a fixture `hosts` that returns or yields Hosts(...)"
        )

    @pytest.fixture
    def lab(self, hosts: Hosts) -> Iterator[Lab]:
        """Sockets of both hosts."""
        lab = Lab(hosts, self.bound)
        yield lab
        lab.close()

    @pytest.fixture
    def own(self, hosts: Hosts) -> Iterator[Lab]:
        """Sockets of the server host alone, on its loopback addresses."""
        lab = Lab(on_loopback(hosts), self.bound)
        yield lab
        lab.close()

    @pytest.fixture(autouse=True)
    def _remember_case(self, request: pytest.FixtureRequest) -> None:
        spec = getattr(request.node, "callspec", None)
        self.cases = (f"-{spec.id}-",) if spec is not None else ()

    def is_case(self, case: str) -> bool:
        """Return whether the running test is the case named `case`, or one of several such."""
        return not case or any(f"-{case}-" in each for each in self.cases)


def on_loopback(hosts: Hosts) -> Hosts:
    """Return the server host as both hosts, at 127.0.0.1."""
    return Hosts(hosts.server, hosts.server, "127.0.0.1", "127.0.0.1", hosts.drive, hosts.skip_time)


def _differing(
    test: Callable[..., object], by_case: Mapping[str, Difference]
) -> Callable[..., object]:
    """Return `test` turned round for the cases that are declared to differ."""

    @functools.wraps(test)
    def differs(self: SuiteBase, **arguments: Any) -> None:
        declared = [one for case, one in by_case.items() if self.is_case(case)]
        if not declared:
            test(self, **arguments)
            return
        difference = declared[0]
        if not difference.run:
            pytest.xfail(difference.reason)
        labs = [one for one in arguments.values() if isinstance(one, Lab)]
        for lab in labs:
            lab.patience = min(self.bound, _BOUND_OF_DIFFERENCES)
        try:
            test(self, **arguments)
        except _FAILURES:
            pass
        else:
            pytest.fail(
                f"this test holds, though the stack is declared to differ ({difference.reason}): "
                "take it out of `differences`"
            )
        if difference.instead is not None:
            hosts = labs[0].hosts if labs else arguments["hosts"]
            fresh = Lab(hosts, self.bound)
            try:
                difference.instead(fresh)
            finally:
                fresh.close()

    return differs
