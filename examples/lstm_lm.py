"""A byte-level language model with a recurrent net: dense against block-sparse layouts.

The networks have equally many parameters in all and get the same text, the same optimiser and the
same number of steps. The block-sparse ones are several times as wide. Scores are bits per byte of
held-out text by averaged weights, as mean and spread over seeds.

Presets: tiny (two CPU cores, minutes), small (one GPU, a quarter of an hour), paper (the sizes of
"GPU Kernels for Block-Sparse Weights": 100 million parameters, 3168 units dense, about 18432
sparse; give it a large text with --data).
"""

import argparse
import pathlib

import numpy as np
import tensorflow as tf

import corpora
import lstm_arms
import lstm_training
import output

PRESETS = {
    "tiny": {"width": 160, "widen": 4.0, "stride": 4, "block_size": 8, "internal_steps": 4,
             "embedding": 32, "steps": 800, "batch": 16, "length": 32, "learning_rate": 6e-3,
             "average": 0.98, "seeds": 2, "dtype": "float32"},
    "small": {"width": 768, "widen": 5.33, "stride": 4, "block_size": 16, "internal_steps": 4,
              "embedding": 64, "steps": 1500, "batch": 128, "length": 64, "learning_rate": 2e-3,
              "average": 0.995, "seeds": 1, "dtype": "mixed_bfloat16"},
    "paper": {"width": 3168, "widen": 5.818, "stride": 4, "block_size": 32, "internal_steps": 6,
              "embedding": 64, "steps": 200, "batch": 128, "length": 64, "learning_rate": 1e-3,
              "average": 0.999, "seeds": 1, "dtype": "mixed_bfloat16"},
}


def parse(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny",
                        help="sizes that the options below replace one by one (%(default)s)")
    parser.add_argument("--arms", nargs="+", choices=lstm_arms.ARMS,
                        default=["dense", "ba", "ws", "random", "diagonal"])
    parser.add_argument("--seeds", type=int, help="networks of each arm")
    add_text_options(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--width", type=int, help="units of the dense arm")
    model.add_argument("--widen", type=float, help="how many times wider the others are, about")
    model.add_argument("--stride", type=int,
                       help="of the units that inputs and outputs touch in the sparse arms")
    model.add_argument("--block-size", type=int, choices=(8, 16, 32, 64, 128))
    model.add_argument("--internal-steps", type=int)
    model.add_argument("--embedding", type=int)
    model.add_argument("--layout-seed", type=int, default=0)
    add_training_options(parser)
    parser.add_argument("--resume", action="store_true",
                        help="go on from the checkpoints of a run of the same command that broke")
    chosen, _ = parser.parse_known_args(argv)
    parser.set_defaults(**PRESETS[chosen.preset])
    return parser.parse_args(argv)


def add_text_options(parser) -> None:
    parser.add_argument("--data", type=pathlib.Path, metavar="PATH",
                        help="text8, enwik8, WikiText-103 or any file (default: Python's own "
                        "documentation)")
    parser.add_argument("--kind", choices=corpora.KINDS, help="of --data, if its name misleads")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", default=pathlib.Path("out"),
                        help="where results and checkpoints go (%(default)s)")


def add_training_options(parser) -> None:
    training = parser.add_argument_group("training, the same for every network")
    training.add_argument("--steps", type=int)
    training.add_argument("--batch", type=int, help="sequences side by side")
    training.add_argument("--length", type=int, help="bytes of a sequence")
    training.add_argument("--learning-rate", type=float, help="Adam's, at its peak")
    training.add_argument("--average", type=float, help="decay of the averaged weights")
    training.add_argument("--reports", type=int, default=5, help="validations on the way")
    training.add_argument("--dtype", choices=("float32", "mixed_float16", "mixed_bfloat16"))
    training.add_argument("--xla", action="store_true", help="compile the step with XLA")
    training.add_argument("--recompute", action="store_true",
                          help="multiply again on the way back, to save memory")


def training_of(options) -> lstm_training.Training:
    """The Training that options ask for.

    Raises:
      ValueError: a number below 1.
    """
    for name in ("steps", "batch", "length", "reports"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; expected at least 1")
    names = ("steps", "batch", "length", "learning_rate", "reports", "average", "dtype", "xla",
             "recompute")
    return lstm_training.Training(**{name: getattr(options, name) for name in names})


def describe(corpus, training) -> str:
    passes = training.steps * training.batch * training.length / len(corpus.train)
    return (f"{corpus.name}: {len(corpus.train):,} bytes to train on, {len(corpus.valid):,} to "
            f"validate, {len(corpus.test):,} to test; {training.steps} steps of {training.batch} x "
            f"{training.length} bytes = {passes:.2g} passes")


def rows_of(groups) -> list[dict]:
    """A row of the table for each list of outcomes that differ in their seed alone."""
    rows = []
    for outcomes in groups:
        arm = outcomes[0].arm
        memory = outcomes[0].peak_memory
        rows.append({
            "arm": arm.name, "parameters": f"{arm.parameters:,}", "units": arm.units,
            "density": f"{arm.density:.1%}",
            "valid bits/byte": spread([o.valid_bits for o in outcomes]),
            "test bits/byte": spread([o.test_bits for o in outcomes]),
            "bytes/s": f"{np.mean([o.bytes_per_second for o in outcomes]):,.0f}",
            "memory": "-" if memory is None else f"{memory / 2**30:.1f} GiB",
        })
    return rows


def spread(values) -> str:
    """Mean, and half the distance between the largest and the smallest."""
    half = (max(values) - min(values)) / 2
    return f"{np.mean(values):.4f}" + (f" ±{half:.4f}" if len(values) > 1 else "")


def draw(figure, groups, label) -> None:
    figure.set_size_inches(11, 4.2)
    by_step, by_time = figure.subplots(1, 2)
    for color, outcomes in enumerate(groups):
        for i, outcome in enumerate(outcomes):
            steps, seconds, bits = zip(*outcome.curve)
            style = {"color": f"C{color}", "marker": ".", "alpha": 1 if i == 0 else 0.45}
            name = f"{label(outcome.arm)}: {np.mean([o.valid_bits for o in outcomes]):.3f}"
            by_step.plot(steps, bits, label=name if i == 0 else None, **style)
            by_time.plot(seconds, bits, **style)
    by_step.set(xlabel="step", ylabel="bits/byte of the validation text",
                title="at equal parameters, a line for each seed")
    by_time.set(xlabel="seconds of training", title="the same, over time")
    by_step.legend(fontsize=8)
    for axes in (by_step, by_time):
        axes.grid(alpha=0.25)


def main() -> None:
    options = parse()
    # The same numbers on every run, also after a break.
    tf.config.experimental.enable_op_determinism()
    training = training_of(options)
    corpus = corpora.load(options.data, options.kind)
    print(describe(corpus, training))
    groups = []
    for arm in lstm_arms.make_arms(options.arms, options):
        print(f"\n{arm.name}: {arm.parameters:,} parameters, {arm.units} units, density "
              f"{arm.density:.1%}", flush=True)
        checkpoint = options.out / "lstm_lm"
        groups.append([
            lstm_training.train(arm, corpus, training, seed,
                                checkpoint / f"{arm.name}-{seed}.npz", options.resume)
            for seed in range(options.seeds)])
    result = {"preset": options.preset, "text": corpus.name, "steps": training.steps,
              "networks": [outcome.to_json() for group in groups for outcome in group]}
    output.finish("lstm_lm", rows_of(groups), result, options.out,
                  lambda figure: draw(figure, groups, lambda arm: f"{arm.name}, {arm.units} units"))


if __name__ == "__main__":
    output.run(main)
