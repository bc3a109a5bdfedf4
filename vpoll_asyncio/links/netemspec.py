"""What tc-netem's words mean: times, percentages, rates, and one direction's settings."""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import Final, Literal, NamedTuple, get_args

__all__ = ["Direction", "Distribution", "Probability", "Settings", "as_number", "parse_settings"]

Direction = Literal["in", "out", "both"]
Distribution = Literal["uniform", "normal"]

Value = float | str | tuple[float | str, float | str]
"""A number or text; with a correlation, a pair of them or ``"VALUE CORRELATION"``."""

_NUMBER: Final = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
_TIMES: Final = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "usec": 1e-6}
_PREFIXES: Final = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}
# tc(8): "bit" is bits a second, "bps" bytes a second.
_RATES: Final = {f"{prefix}bit": factor for prefix, factor in _PREFIXES.items()} | {
    f"{prefix}bps": 8 * factor for prefix, factor in _PREFIXES.items()
}


class Probability(NamedTuple):
    """How often something happens, and how much that depends on the frame before."""

    value: float
    correlation: float


class Settings(NamedTuple):
    """What happens to the frames of one direction."""

    delay: float
    """Seconds."""
    jitter: float
    """Seconds, at most (uniform) or the standard deviation (normal)."""
    jitter_correlation: float
    distribution: Distribution
    loss: Probability
    duplicate: Probability
    corrupt: Probability
    reorder: Probability
    gap: int
    """Every how many frames one may be reordered; 0: none."""
    rate: float
    """Bits a second; 0: no limit."""
    limit: int
    """Most frames that wait."""


def parse_settings(
    *,
    delay: float | str = 0,
    jitter: Value = 0,
    distribution: str = "uniform",
    loss: Value = 0,
    duplicate: Value = 0,
    corrupt: Value = 0,
    reorder: Value = 0,
    gap: int | str = 0,
    rate: float | str = 0,
    limit: int | str = 1000,
) -> Settings:
    """Return the settings that the words of `NetemLink` say.  Raises ValueError."""
    if distribution not in get_args(Distribution):
        raise ValueError(
            f"distribution={distribution!r}: expected one of {', '.join(get_args(Distribution))}"
        )
    spread, correlation = _pair("jitter", jitter)
    found = Settings(
        delay=_time("delay", delay),
        jitter=_time("jitter", spread),
        jitter_correlation=_fraction("jitter", correlation),
        distribution=distribution,  # type: ignore[arg-type]  # checked above
        loss=_probability("loss", loss),
        duplicate=_probability("duplicate", duplicate),
        corrupt=_probability("corrupt", corrupt),
        reorder=_probability("reorder", reorder),
        gap=_count("gap", gap, 0),
        rate=_rate(rate),
        limit=_count("limit", limit, 1),
    )
    # As tc(8): each of the two implies the other.
    if found.reorder.value and not found.gap:
        found = found._replace(gap=1)
    elif found.gap and not found.reorder.value:
        found = found._replace(reorder=Probability(1.0, 0.0))
    if found.reorder.value and not found.delay:
        raise ValueError(
            f"reorder={reorder!r}, gap={gap!r}: a frame that is reordered overtakes those "
            'that are delayed: give a delay, such as delay="10ms"'
        )
    return found


def _pair(name: str, value: Value) -> tuple[float | str, float | str]:
    if isinstance(value, str):
        words: list[float | str] = [*value.split()]
    elif isinstance(value, tuple):
        words = list(value)
    else:
        words = [value]
    if not 1 <= len(words) <= 2:
        raise ValueError(f"{name}={value!r}: expected a value, or a value and its correlation")
    return words[0], words[1] if len(words) == 2 else 0


def _probability(name: str, value: Value) -> Probability:
    probability, correlation = _pair(name, value)
    return Probability(_fraction(name, probability), _fraction(name, correlation))


def as_number(value: object) -> float:
    """Return what is no text as a float, and NaN for what is no number: no range has it."""
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return math.nan


def _fraction(name: str, value: float | str) -> float:
    number = math.nan
    if not isinstance(value, str):
        number = as_number(value)
    elif found := re.fullmatch(_NUMBER + "(%?)", value.strip()):
        number = float(found[1]) / (100 if found[2] else 1)
    if not 0 <= number <= 1:
        raise ValueError(f'{name}={value!r}: expected a fraction of 1, or per cent such as "2%"')
    return number


def _time(name: str, value: float | str) -> float:
    number = math.nan
    if not isinstance(value, str):
        number = as_number(value)
    elif found := re.fullmatch(_NUMBER + "([a-z]+)", value.strip()):
        number = float(found[1]) * _TIMES.get(found[2], math.nan)
    # A day is more than any network needs, and less than any clock has.
    if not 0 <= number <= 86400:
        raise ValueError(f'{name}={value!r}: expected seconds, or text such as "10ms" or "1.5s"')
    return number


def _rate(value: float | str) -> float:
    number = math.nan
    if not isinstance(value, str):
        number = as_number(value)
    elif found := re.fullmatch(_NUMBER + "([a-z]*)", value.strip().lower()):
        number = float(found[1]) * _RATES.get(found[2] or "bit", math.nan)
    # Below one bit a second a frame takes hours, and at last longer than clocks count.
    if number and not 1 <= number < math.inf:
        raise ValueError(
            f"rate={value!r}: expected bits a second, 1 or more (0: no limit), "
            'or text such as "10mbit"'
        )
    return number


def _count(name: str, value: object, low: int) -> int:
    number = -1
    if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
        try:
            number = int(value)
        except ValueError:
            pass  # More digits than Python reads.
    if number < low:
        raise ValueError(f"{name}={value!r}: expected {low} or more frames")
    return number
