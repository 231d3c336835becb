"""Internal steps between two time steps at equal parameters: the 2017 report's figure 8, reduced.

Dense networks of the same cell with 2 to 6 internal steps, each as wide as makes the total number
of parameters the same. The report saw the test loss fall with the number of steps and stop falling
at about four. (Its widths were 1448 to 1120, on WikiText-103: --width 1256 and --data for those.)
"""

import argparse

import tensorflow as tf

import corpora
import lstm_arms
import lstm_lm
import lstm_training
import output

DEFAULTS = {**lstm_lm.PRESETS["tiny"], "seeds": 1}


def arm_of(internal_steps: int, like: lstm_arms.Arm) -> lstm_arms.Arm:
    """The dense arm of so many internal steps with about as many parameters as `like`."""
    made = [lstm_arms.dense_arm(width, internal_steps, like.embedding)
            for width in range(8, 3 * like.units, 8)]
    return min(made, key=lambda arm: abs(arm.parameters - like.parameters))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 3, 4, 5, 6],
                        help="internal steps (%(default)s)")
    parser.add_argument("--seeds", type=int, help="networks of each depth")
    parser.add_argument("--width", type=int, help="units of the network with four internal steps, "
                        "whose parameters the others have to match")
    parser.add_argument("--embedding", type=int)
    lstm_lm.add_text_options(parser)
    lstm_lm.add_training_options(parser)
    parser.set_defaults(**DEFAULTS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if min(options.depths) < 2:
        raise ValueError(f"--depths has {min(options.depths)}; expected 2 or more: one "
                         "multiplicative and one additive step")
    tf.config.experimental.enable_op_determinism()
    training = lstm_lm.training_of(options)
    corpus = corpora.load(options.data, options.kind)
    print(lstm_lm.describe(corpus, training))
    like = lstm_arms.dense_arm(options.width, 4, options.embedding)
    groups = []
    for depth in options.depths:
        arm = arm_of(depth, like)
        print(f"\n{depth} internal steps: {arm.parameters:,} parameters, {arm.units} units",
              flush=True)
        groups.append([lstm_training.train(arm, corpus, training, seed)
                       for seed in range(options.seeds)])
    rows = [{"internal steps": depth, **{key: value for key, value in row.items()
                                         if key not in ("arm", "density")}}
            for depth, row in zip(options.depths, lstm_lm.rows_of(groups))]
    result = {"text": corpus.name, "steps": training.steps,
              "networks": [outcome.to_json() for group in groups for outcome in group]}

    def draw(figure):
        lstm_lm.draw(figure, groups, lambda arm: f"{arm.internal_steps} steps, {arm.units} units")

    output.finish("depth_study", rows, result, options.out, draw)


if __name__ == "__main__":
    output.run(main)
