"""The three networks that are compared, sized so that they have equally many parameters.

window of bytes -> embedding -> layer -> depth x (layer, added to its input) -> 256 logits

In the dense arm every layer is dense. In the others every layer is block-sparse and wider, with as
many blocks as make the total the same.
"""

import argparse
import dataclasses

import numpy as np

from bsparse_tf import layouts

BYTES = 256
SPECS = {
    "ws": "ws:density={density},p=0.2,seed={seed}",
    "ba": "ba:density={density},seed={seed}",
}
CLOSE_ENOUGH = 0.003  # relative difference in parameters at which the search stops


@dataclasses.dataclass(frozen=True)
class Arm:
    """Sizes of one network; `layouts` has an array [CB, KB] for each layer, or None if dense."""

    name: str
    width: int
    shapes: tuple[tuple[int, int], ...]  # (inputs, outputs) of each layer
    embedding: int
    block_size: int
    layouts: tuple[np.ndarray | None, ...]

    @property
    def parameters(self) -> int:
        return BYTES * self.embedding + sum(
            _weights(shape, layout, self.block_size) + shape[1]
            for shape, layout in zip(self.shapes, self.layouts))

    @property
    def density(self) -> float:
        """Stored weights of all layers, divided by what dense layers of these sizes would store."""
        stored = sum(_weights(shape, layout, self.block_size)
                     for shape, layout in zip(self.shapes, self.layouts))
        return stored / sum(inputs * outputs for inputs, outputs in self.shapes)


def _weights(shape, layout, block_size) -> int:
    return shape[0] * shape[1] if layout is None else int(layout.sum()) * block_size**2


def _shapes(width: int, options: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    first = (options.window * options.embedding, width)
    return (first, *[(width, width)] * options.depth, (width, BYTES))


def dense_arm(options: argparse.Namespace) -> Arm:
    shapes = _shapes(options.width, options)
    return Arm("dense", options.width, shapes, options.embedding, options.block_size,
               (None,) * len(shapes))


def sparse_arm(name: str, options: argparse.Namespace) -> Arm:
    """An arm whose parameters match the dense arm's, about `options.widen` times as wide.

    Degrees of a graph are whole numbers, so at one width the counts that exist are a coarse grid.
    Widths are tried in the order of their distance from the one asked for, until one fits.
    """
    target = dense_arm(options).parameters
    wanted = max(1, round(options.widen * options.width / options.block_size))
    widths = sorted(range(max(1, wanted * 2 // 3), wanted * 4 // 3 + 1),
                    key=lambda blocks: abs(blocks - wanted))
    best = None
    for blocks in widths:
        shapes = _shapes(blocks * options.block_size, options)
        for arm in _arms_at(name, shapes, options, target):
            if best is None or _mismatch(arm, target) < _mismatch(best, target):
                best = arm
        if best is not None and _mismatch(best, target) <= CLOSE_ENOUGH:
            return best
    if best is None:
        raise ValueError(f"{name}: no layout about {options.widen:g} times as wide as the dense "
                         f"arm has as few as its {target} parameters")
    return best


def _mismatch(arm: Arm, target: int) -> float:
    return abs(arm.parameters - target) / target


def _arms_at(name, shapes, options, target):
    """Arms of these shapes, each corrected by what the one before it missed the target by.

    Every layer aims for as many weights as its counterpart in the dense arm has.
    """
    bs = options.block_size
    counterparts = [inputs * outputs for inputs, outputs in dense_arm(options).shapes]
    biases = sum(outputs for _, outputs in shapes)
    share = (target - BYTES * options.embedding - biases) / sum(counterparts)
    for _ in range(3):
        made = tuple(
            _layout(name, share * weights / (inputs * outputs), options.seed + i,
                    inputs // bs, outputs // bs)
            for i, (weights, (inputs, outputs)) in enumerate(zip(counterparts, shapes)))
        arm = Arm(name, shapes[0][1], shapes, options.embedding, bs, made)
        yield arm
        share *= target / arm.parameters


def _layout(name, density, seed, in_blocks, out_blocks) -> np.ndarray:
    """The family's layout of this density, or of the lowest that it has."""
    density = min(1.0, density)
    while True:
        try:
            return layouts.from_spec(SPECS[name].format(density=density, seed=seed),
                                     in_blocks, out_blocks)
        except ValueError:  # sparser than this family gets
            if density >= 1:
                raise
            density = min(1.0, density * 1.25)


def make_arms(options: argparse.Namespace) -> list[Arm]:
    return [dense_arm(options) if name == "dense" else sparse_arm(name, options)
            for name in options.arms]
