"""Command-line options that the byte-level examples share."""

import argparse
import math
import pathlib

ARMS = ("dense", "ws", "ba")
WARM_UP = 0.05  # share of the steps in which the learning rate rises


def parse(description: str, argv=None, **defaults) -> argparse.Namespace:
    """Parses the options; `defaults` replace those below."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS),
                        help="dense; Watts-Strogatz; Barabasi-Albert (default: all three)")
    parser.add_argument("--steps", type=int, default=2400, help="training steps (%(default)s)")
    parser.add_argument("--data", type=pathlib.Path, metavar="FILE",
                        help="text to learn (default: Python's own reference, pydoc_data.topics)")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", default=pathlib.Path("out"),
                        help="where the plot and the JSON go (%(default)s)")
    parser.add_argument("--seed", type=int, default=0,
                        help="of weights, layouts and data order (%(default)s)")

    model = parser.add_argument_group("model")
    model.add_argument("--width", type=int, default=512,
                       help="units of a hidden layer of the dense arm, whose parameters the "
                       "others have to match (%(default)s)")
    model.add_argument("--widen", type=float, default=4.0,
                       help="how many times wider the sparse arms are (%(default)s)")
    model.add_argument("--depth", type=int, default=2,
                       help="hidden layers after the first (%(default)s)")
    model.add_argument("--block-size", type=int, default=16, choices=(8, 16, 32, 64, 128),
                       help="of the sparse arms (%(default)s)")
    model.add_argument("--window", type=int, default=16, help="bytes seen (%(default)s)")
    model.add_argument("--embedding", type=int, default=32, help="numbers a byte (%(default)s)")

    training = parser.add_argument_group("training, the same for every arm")
    training.add_argument("--batch", type=int, default=256, help="windows a step (%(default)s)")
    training.add_argument("--learning-rate", type=float, default=6e-3,
                          help="Adam's, at its peak (%(default)s)")
    training.add_argument("--reports", type=int, default=10,
                          help="validations on the way (%(default)s)")
    parser.set_defaults(**defaults)
    options = parser.parse_args(argv)
    if options.window * options.embedding % options.block_size:
        parser.error(f"window x embedding = {options.window * options.embedding} inputs, "
                     f"expected a multiple of the block size {options.block_size}")
    if min(options.steps, options.batch, options.reports) < 1:
        parser.error("--steps, --batch and --reports must be at least 1")
    return options


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Rises linearly, then falls as a half cosine to zero at the last step."""
    warm_up = max(1, round(WARM_UP * options.steps))
    if step < warm_up:
        return options.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, options.steps - warm_up)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
