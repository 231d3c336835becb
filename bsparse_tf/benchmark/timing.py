"""Timing of contenders side by side, so that whatever disturbs the machine disturbs all of them."""

import dataclasses
import statistics
import time
from collections.abc import Sequence

from bsparse_tf.benchmark.contenders import Contender

MAX_REPEATS = 64


@dataclasses.dataclass
class Times:
    """Seconds of one product, one entry a window; windows of one round share an index."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def _window(contender: Contender, repeats: int) -> float:
    start = time.perf_counter()
    contender.run(repeats)
    return (time.perf_counter() - start) / repeats


def _repeats_for(contender: Contender, window_seconds: float) -> int:
    """Products that fill a window. Also warms up: caches, plans, thread pool, traced graph."""
    contender.run(1)
    once = min(_window(contender, 1) for _ in range(2))
    repeats = max(1, min(MAX_REPEATS, round(window_seconds / once)))
    contender.run(repeats)
    return repeats


def time_interleaved(contenders: Sequence[Contender], rounds: int,
                     window_seconds: float) -> list[Times]:
    """`rounds` windows of each contender, taken in turn; every second round in reverse order."""
    repeats = [_repeats_for(contender, window_seconds) for contender in contenders]
    times = [Times([]) for _ in contenders]
    for round_ in range(rounds):
        order = range(len(contenders))
        for i in order if round_ % 2 == 0 else reversed(order):
            times[i].seconds.append(_window(contenders[i], repeats[i]))
    return times


def paired_ratio(numerator: Times, denominator: Times) -> float:
    """Median over rounds of the ratio of two windows that ran next to each other."""
    return statistics.median(n / d for n, d in zip(numerator.seconds, denominator.seconds))


def time_slow(contender: Contender, windows: int = 2) -> Times:
    """A few single runs, for peers that are slower by orders of magnitude."""
    contender.run(1)
    return Times([_window(contender, 1) for _ in range(windows)])
