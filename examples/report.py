"""What the byte-level examples show at their end: a table, a JSON line, a plot."""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import numpy as np

import output
from arms import Arm
from text_data import Corpus


@dataclasses.dataclass
class Outcome:
    """How one arm did. `curve` holds (step, seconds of training so far, valid bits/byte)."""

    arm: Arm
    curve: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)
    valid_bits: float = float("nan")  # on all of the held-out text
    steps_per_second: float = float("nan")

    def to_json(self) -> dict:
        return {
            "arm": self.arm.name,
            "parameters": self.arm.parameters,
            "width": self.arm.width,
            "density": round(self.arm.density, 4),
            "valid_bits_per_byte": round(self.valid_bits, 4),
            "steps_per_second": round(self.steps_per_second, 2),
            "curve": [[step, round(seconds, 2), round(bits, 4)]
                      for step, seconds, bits in self.curve],
        }


class Stopwatch:
    """Adds up the time of training alone. The first section is left out of the speed: in it
    TensorFlow traces the graph."""

    def __init__(self):
        self._sections = []
        self._start = None

    def start(self) -> None:
        self._start = time.perf_counter()

    def stop(self, steps: int) -> None:
        self._sections.append((time.perf_counter() - self._start, steps))

    @property
    def seconds(self) -> float:
        return sum(seconds for seconds, _ in self._sections)

    @property
    def steps_per_second(self) -> float:
        sections = self._sections[1:] or self._sections
        return sum(steps for _, steps in sections) / sum(seconds for seconds, _ in sections)


def sections(options: argparse.Namespace) -> list[range]:
    """The steps cut into `options.reports` runs, with a validation after each."""
    cuts = np.linspace(0, options.steps, min(options.reports, options.steps) + 1).astype(int)
    return [range(start, stop) for start, stop in zip(cuts[:-1], cuts[1:])]


def progress_bar(arm: str, step: int, steps: int, text: str) -> None:
    """Redraws one line of a terminal; in a log it writes nothing but the last line."""
    if sys.stderr.isatty() or step == steps:
        filled = 30 * step // steps
        end = "\n" if step == steps else ""
        print(f"\r{arm:>6} [{'=' * filled}{' ' * (30 - filled)}] {step}/{steps} {text}", end=end,
              file=sys.stderr, flush=True)


def table(outcomes: list[Outcome]) -> str:
    lines = [f"{'arm':<7}{'parameters':>11}{'width':>7}{'density':>9}{'valid bits/byte':>17}"
             f"{'steps/s':>9}"]
    for outcome in outcomes:
        arm = outcome.arm
        lines.append(f"{arm.name:<7}{arm.parameters:>11,}{arm.width:>7}{arm.density:>9.1%}"
                     f"{outcome.valid_bits:>17.4f}{outcome.steps_per_second:>9.1f}")
    return "\n".join(lines)


def describe(corpus: Corpus, options: argparse.Namespace) -> str:
    passes = options.steps * options.batch / len(corpus.train)
    return (f"{corpus.name}: {len(corpus.train):,} bytes to train on, {len(corpus.valid):,} held "
            f"out; {options.steps} steps of {options.batch} windows = {passes:.2g} passes")


def finish(example: str, outcomes: list[Outcome], corpus: Corpus,
           options: argparse.Namespace) -> None:
    """Prints the table and one JSON line, and writes DIR/<example>.json and .png."""
    print("\n" + table(outcomes))
    result = {"example": example, "text": corpus.name, "steps": options.steps,
              "batch": options.batch, "seed": options.seed,
              "arms": [outcome.to_json() for outcome in outcomes]}
    with output.replacing(options.out / f"{example}.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    picture = options.out / f"{example}.png"
    try:
        with output.replacing(picture) as path:
            _plot(outcomes, path)
        print(f"plot: {picture}")
    except ImportError as error:
        print(f"no plot: {error}")
    print(json.dumps(result))


def _plot(outcomes: list[Outcome], path: pathlib.Path) -> None:
    from matplotlib.figure import Figure  # optional

    from bsparse_tf import layouts

    sparse = [outcome for outcome in outcomes if outcome.arm.layouts[1] is not None]
    figure = Figure(figsize=(9 + 3.4 * len(sparse), 4), layout="constrained")
    axes = figure.subplots(1, 2 + len(sparse))
    for outcome in outcomes:
        steps, seconds, bits = zip(*outcome.curve)
        arm = outcome.arm
        label = f"{arm.name}: width {arm.width}, {outcome.valid_bits:.3f}"
        axes[0].plot(steps, bits, marker=".", label=label)
        axes[1].plot(seconds, bits, marker=".", label=label)
    axes[0].set(xlabel="step", ylabel="held-out bits/byte", title="at equal parameters")
    axes[1].set(xlabel="seconds of training", title="the same, over time")
    axes[0].legend(fontsize=8)
    for ax in axes[:2]:
        ax.grid(alpha=.25)
    for ax, outcome in zip(axes[2:], sparse):
        layouts.plot(outcome.arm.layouts[1], ax=ax)
        ax.set_title(f"{outcome.arm.name}: blocks of a hidden layer", fontsize=10)
    figure.savefig(path, dpi=110)
