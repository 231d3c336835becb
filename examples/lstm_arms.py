"""The recurrent networks that are compared, sized to have equally many parameters in all.

byte -> embedding -> SmallWorldLSTM -> 256 logits. In the dense arm the recurrent matrices are
dense; in the others they are block-sparse and wider. Inputs and outputs touch every stride-th unit,
so that a wide network does not get a larger output layer than a narrow one.
"""

import dataclasses

from bsparse_tf import layouts

BYTES = 256
SPECS = {
    "ba": "ba:density={density!r},seed={seed}",
    "ws": "ws:density={density!r},p=0.2,seed={seed}",
    "random": "random:density={density!r},self_connections=true,seed={seed}",
    "diagonal": "block_diagonal:density={density!r}",
    "lattice": "ring_lattice:density={density!r}",
}
ARMS = ("dense", *SPECS)
CLOSE_ENOUGH = 0.003  # relative difference in parameters at which the search stops


@dataclasses.dataclass(frozen=True)
class Arm:
    """Sizes of one network; `layout` is what SmallWorldLSTM takes."""

    name: str
    units: int
    stride: int
    internal_steps: int
    embedding: int
    block_size: int
    layout: str | list[str]
    density: float  # of a recurrent matrix, the mean over all

    @property
    def parameters(self) -> int:
        """Of the whole network."""
        matrices = self.internal_steps + 4
        touched = self.units // self.stride
        recurrent = round(matrices * self.density * self.units**2)
        inputs = 2 * self.embedding * touched
        norms = 2 * (2 * touched + matrices * self.units)
        return BYTES * self.embedding + inputs + recurrent + norms + (touched + 1) * BYTES


def dense_arm(width: int, internal_steps: int, embedding: int, stride: int = 1) -> Arm:
    return Arm("dense", width, stride, internal_steps, embedding, 8, "dense", 1.0)


def sparse_arm(name: str, dense: Arm, widen: float, block_size: int, stride: int,
               seed: int) -> Arm:
    """An arm whose parameters match the dense arm's, about `widen` times as wide.

    Degrees of a graph are whole numbers, so at one width the counts that exist are a coarse grid.
    Widths are tried in the order of their distance from the one asked for, until one fits.

    Raises:
      ValueError: if no layout of this family is sparse enough at such widths.
    """
    wanted = max(1, round(widen * dense.units / block_size))
    widths = sorted(range(max(1, wanted * 2 // 3), wanted * 4 // 3 + 1),
                    key=lambda blocks: abs(blocks - wanted))
    best = None
    for blocks in widths:
        arm = _arm_at(name, blocks, dense, block_size, stride, seed)
        if arm and (best is None or _mismatch(arm, dense) < _mismatch(best, dense)):
            best = arm
        if best and _mismatch(best, dense) <= CLOSE_ENOUGH:
            return best
    if best is None:
        raise ValueError(f"{name}: no layout about {widen:g} times as wide as the dense arm has as "
                         f"few as its {dense.parameters} parameters; make it wider or less wide")
    return best


def _mismatch(arm, dense):
    return abs(arm.parameters - dense.parameters) / dense.parameters


def _arm_at(name, blocks, dense, block_size, stride, seed):
    """The arm with so many blocks of units, or None if its layouts would have to be too sparse."""
    units = blocks * block_size
    if units % stride:
        return None
    empty = Arm(name, units, stride, dense.internal_steps, dense.embedding, block_size, "", 0.0)
    matrices = dense.internal_steps + 4
    density = (dense.parameters - empty.parameters) / (matrices * units**2)
    if not 0 < density <= 1:
        return None
    # The gates share the last of the layouts; each internal step has its own.
    specs = [SPECS[name].format(density=density, seed=100 * seed + step)
             for step in range(dense.internal_steps + 1)]
    try:
        stored = [int(layouts.from_spec(spec, blocks).sum()) for spec in specs]
    except ValueError:  # sparser than this family gets
        return None
    total = sum(stored) + 3 * stored[-1]
    return dataclasses.replace(empty, layout=specs, density=total / (matrices * blocks**2))


def make_arms(names, options) -> list[Arm]:
    """The arms by name; `options` has width, widen, block_size, stride, internal_steps, embedding
    and layout_seed."""
    dense = dense_arm(options.width, options.internal_steps, options.embedding)
    return [dense if name == "dense" else
            sparse_arm(name, dense, options.widen, options.block_size, options.stride,
                       options.layout_seed)
            for name in names]
