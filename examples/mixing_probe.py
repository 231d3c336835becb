"""A task that only a network can solve in which every block reaches the far ones.

Blocks of units lie on a ring. Each block's input is one random bit, and its answer is the bit of
the block on the other side of the ring. A network is a stack of `depth` block-sparse layers, each
added to its input, and every block reads its answer off its own units; so each bit has to travel
half way round in `depth` hops, together with all the others. A block that is not reached can only
guess: accuracy 50 %.

On a ring lattice that takes at least as many layers as half a ring is long, on a block diagonal it
never ends; on small-world and random layouts of the same number of blocks a few layers are enough.
In brackets is the share of blocks that the layouts join to their answer at all.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf

from bsparse_tf import layouts
from bsparse_tf.keras import BlockSparseDense
import output

FAMILIES = {
    "Barabasi-Albert": "ba:density={density!r},seed={seed}",
    "Watts-Strogatz": "ws:density={density!r},p=0.2,seed={seed}",
    "random": "random:density={density!r},self_connections=true,seed={seed}",
    "ring lattice": "ring_lattice:density={density!r}",
    "block diagonal": "block_diagonal:density={density!r}",
}


def make_layouts(name: str, options, depth: int, seed: int) -> list[np.ndarray]:
    """One layout for each layer."""
    density = (options.neighbours + 1) / options.blocks
    specs = [FAMILIES[name].format(density=density, seed=1000 * seed + layer)
             for layer in range(depth)]
    return [layouts.from_spec(spec, options.blocks) for spec in specs]


def possible(made: list[np.ndarray]) -> float:
    """Share of the blocks that a path joins to the block on the other side."""
    reached = np.eye(len(made[0]), dtype=bool)
    for layout in made:
        reached = reached.astype(np.float32) @ layout > 0
    answers = np.arange(len(reached))
    return float(reached[(answers + len(reached) // 2) % len(reached), answers].mean())


def make_model(made: list[np.ndarray], block_size: int) -> keras.Model:
    blocks = len(made[0])
    inputs = keras.Input((blocks,))
    # Every unit of a block gets its block's bit, with a weight and a threshold of its own.
    spread = keras.layers.Lambda(lambda bits: tf.repeat(bits, block_size, axis=1),
                                 output_shape=(blocks * block_size,))
    hidden = BlockSparseDense(blocks * block_size, block_size, np.eye(blocks),
                              activation="relu", bias_initializer="random_normal")(spread(inputs))
    for layout in made:
        layer = BlockSparseDense(blocks * block_size, block_size, layout, activation="relu",
                                 kernel_initializer="he_normal")
        hidden = keras.layers.add([hidden, layer(hidden)])
    units = keras.layers.Reshape((blocks, block_size))(hidden)
    outputs = keras.layers.EinsumDense("nbu,bu->nb", output_shape=(blocks,),
                                       bias_axes="b")(units)
    return keras.Model(inputs, outputs)


def examples(count: int, blocks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    bits = np.random.default_rng(seed).integers(0, 2, (count, blocks))
    answers = np.roll(bits, -(blocks // 2), axis=1)
    return (2 * bits - 1).astype(np.float32), answers.astype(np.float32)


def accuracy(name: str, depth: int, seed: int, options) -> tuple[float, float]:
    """(accuracy on new examples, share of blocks that can know)."""
    keras.utils.set_random_seed(seed)
    made = make_layouts(name, options, depth, seed)
    model = make_model(made, options.block_size)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
    model.compile(keras.optimizers.Adam(schedule),
                  keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
    model.fit(*examples(options.steps * options.batch, options.blocks, seed),
              batch_size=options.batch, shuffle=False, verbose=0)
    bits, answers = examples(2048, options.blocks, 10_000 + seed)
    right = (model.predict(bits, batch_size=512, verbose=0) > 0) == (answers > 0.5)
    return float(right.mean()), possible(made)


def draw(figure, results: dict, depths: list[int]) -> None:
    figure.set_size_inches(7.5, 4.5)
    axes = figure.subplots()
    for color, (name, points) in enumerate(results.items()):
        learned, limit = np.array(points).mean(1).T
        axes.plot(depths, 100 * learned, f"C{color}o-", label=name)
        axes.plot(depths, 100 * (0.5 + limit / 2), f"C{color}:", lw=1)
    axes.set(xlabel="layers", ylabel="% of answers right", xticks=depths,
             title="dotted: if every block that is reached knew, and the others guessed")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=32, help="on the ring (%(default)s)")
    parser.add_argument("--block-size", type=int, default=16, choices=(8, 16, 32, 64, 128))
    parser.add_argument("--neighbours", type=int, default=6,
                        help="of a block, besides itself (%(default)s)")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--seeds", type=int, default=1, help="networks each (%(default)s)")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", default=pathlib.Path("out"))
    options = parser.parse_args()
    if options.blocks < 2 or options.blocks % 2:
        raise ValueError(f"--blocks is {options.blocks}; expected an even number, so that every "
                         "block has one on the other side")
    if min(options.depths) < 1:
        raise ValueError(f"--depths has {min(options.depths)}; expected at least 1")
    results, done = {name: [] for name in FAMILIES}, 0
    for name, points in results.items():
        for depth in options.depths:
            points.append([accuracy(name, depth, seed, options)
                           for seed in range(options.seeds)])
            done += 1
            output.progress("networks", done, len(FAMILIES) * len(options.depths),
                            f"{name}, depth {depth}: {np.mean(points[-1], 0)[0]:.1%}")
    rows = [{"layout": name,
             **{f"depth {depth}": "{:.1%} ({:.0%})".format(*np.mean(point, 0))
                for depth, point in zip(options.depths, points)}}
            for name, points in results.items()]
    result = {"blocks": options.blocks, "block_size": options.block_size,
              "neighbours": options.neighbours, "steps": options.steps, "depths": options.depths,
              "accuracy_and_reached": results}
    output.finish("mixing_probe", rows, result, options.out,
                  lambda figure: draw(figure, results, options.depths))


if __name__ == "__main__":
    output.run(main)
