"""Hypothesis strategies for networks that delay, lose, double and reorder what they carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, Final

from hypothesis import strategies as st

from ..links import Link, NetemLink

__all__ = ["FAULT_WORDS", "Faults", "faults"]

FAULT_WORDS: Final = ("delay", "jitter", "loss", "duplicate", "corrupt", "reorder", "rate")
"""The words of tc-netem(8) that `Faults` has."""


@dataclasses.dataclass(frozen=True)
class Faults:
    """What a network does to what it carries, in the words of tc-netem(8); without any, nothing.

    delay, jitter -- seconds
    loss, duplicate, corrupt, reorder -- fractions of 1; a loss of 1 is a partition
    rate -- bits a second; 0: no limit
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    rate: float = 0.0

    @property
    def partition(self) -> bool:
        """Whether nothing passes."""
        return self.loss >= 1

    def settings(self) -> dict[str, Any]:
        """Return the words with a value: keyword arguments of `NetemLink` and its like."""
        return {word: value for word in FAULT_WORDS if (value := getattr(self, word))}

    def around(self, link: Link, *, seed: int | str | None = 0) -> NetemLink:
        """Return `link` with these faults in both directions.

        seed -- of the random numbers; None: a new one.  Raises ValueError as `NetemLink`.
        """
        return NetemLink(link, seed=seed, **self.settings())

    def locator(self, inner: str, *, seed: int | None = 0) -> str:
        """Return the VNL `inner` with these faults around it: ``netem://delay=0.01s{…}``."""
        words = [f"{word}={self._written(word)}" for word in self.settings()]
        if seed is not None:
            words.append(f"seed={seed}")
        return f"netem://{','.join(words)}{{{inner}}}"

    def _written(self, word: str) -> str:
        value = getattr(self, word)
        if word in ("delay", "jitter"):
            return f"{value * 1e6:.0f}us"
        return f"{value:.0f}bit" if word == "rate" else f"{value * 100:.6g}%"


# Bits a second, of which each whole number is a float.
_FASTEST: Final = 1e15


def faults(
    words: Collection[str] = ("delay", "jitter", "loss", "rate"),
    *,
    max_delay: float = 0.05,
    max_share: float = 0.2,
    min_rate: float = 1e6,
    max_rate: float = 1e9,
    partitions: bool = False,
) -> st.SearchStrategy[Faults]:
    """Generate faults of a network.

    words -- those of `FAULT_WORDS` that may be among them
    max_delay -- the most seconds of delay, and of jitter, which come in whole milliseconds
    max_share -- the largest fraction of what is lost, doubled, corrupted, reordered; these come in
        whole per cent
    min_rate, max_rate -- bits a second, where there is a limit
    partitions -- whether nothing at all may pass, too

    Each value is one that `NetemLink` takes: nothing is reordered without a delay.  They shrink
    towards a perfect network, ``Faults()``, and a partition towards one of nothing else.  Raises
    ValueError for an unknown word and for bounds that hold nothing.
    """
    if unknown := set(words) - set(FAULT_WORDS):
        raise ValueError(f"words={sorted(unknown)}: expected some of {', '.join(FAULT_WORDS)}")
    for name, value, low, high in (
        ("max_delay", max_delay, 0, 86400),
        ("max_share", max_share, 0, 1),
        ("min_rate", min_rate, 1, max_rate),
        ("max_rate", max_rate, 1, _FASTEST),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}={value}: expected {low} to {high}")
    times = st.integers(0, round(max_delay * 1000)).map(lambda count: count / 1000)
    shares = st.integers(0, int(max_share * 100 + 1e-9)).map(lambda count: count / 100)
    rates = st.just(0.0) | st.integers(round(min_rate), round(max_rate)).map(float)
    kinds = {"delay": times, "jitter": times, "rate": rates}
    drawn = {word: kinds.get(word, shares) for word in FAULT_WORDS if word in words}
    found = st.builds(Faults, **drawn).map(_possible)
    return found | st.just(Faults(loss=1.0)) if partitions else found


def _possible(drawn: Faults) -> Faults:
    if drawn.reorder and not drawn.delay:
        return dataclasses.replace(drawn, reorder=0.0)
    return drawn
