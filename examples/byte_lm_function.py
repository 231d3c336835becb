"""The model of byte_lm.py as a plain training loop: BlocksparseMatMul inside a tf.function."""

import keras
import tensorflow as tf

import options as example_options
import plain_model
import report
import text_data
from arms import Arm, make_arms


def train(arm: Arm, corpus: text_data.Corpus, options) -> report.Outcome:
    network = plain_model.Network(arm)
    variables = {name: tf.Variable(value, name=name) for name, value
                 in plain_model.initial_values(arm, options.seed).items()}
    optimizer = keras.optimizers.Adam()
    optimizer.build(list(variables.values()))

    @tf.function
    def step(windows, bytes_after, learning_rate):
        with tf.GradientTape() as tape:
            bits = plain_model.bits_per_byte(network(variables, windows), bytes_after)
        trained = list(variables.values())
        optimizer.learning_rate.assign(learning_rate)
        optimizer.apply_gradients(zip(tape.gradient(bits, trained), trained))
        return bits

    @tf.function(reduce_retracing=True)
    def evaluate(windows, bytes_after):
        return plain_model.bits_per_byte(network(variables, windows), bytes_after)

    def validate(at_most=None):
        starts = text_data.validation_starts(corpus, options.window, at_most)
        batches = [starts[i:i + 1024] for i in range(0, len(starts), 1024)]
        bits = [float(evaluate(*text_data.windows(corpus.valid, batch, options.window)))
                for batch in batches]
        return sum(b * len(batch) for b, batch in zip(bits, batches)) / len(starts)

    outcome = report.Outcome(arm)
    starts = text_data.training_starts(corpus, options.window, options.batch, options.steps,
                                       options.seed)
    batches = iter(text_data.dataset(corpus.train, starts, options.window))
    watch = report.Stopwatch()
    for section in report.sections(options):
        watch.start()
        for i in section:
            windows, bytes_after = next(batches)
            step(windows, bytes_after, tf.constant(example_options.learning_rate(i, options)))
        watch.stop(len(section))
        outcome.curve.append((section.stop, watch.seconds, validate(4096)))
        report.progress_bar(arm.name, section.stop, options.steps,
                            f"valid {outcome.curve[-1][2]:.3f} bits/byte")
    outcome.valid_bits = validate()
    outcome.steps_per_second = watch.steps_per_second
    return outcome


def main() -> None:
    options = example_options.parse(__doc__)
    corpus = text_data.load_corpus(options.data, options.window)
    print(report.describe(corpus, options))
    outcomes = [train(arm, corpus, options) for arm in make_arms(options)]
    report.finish("byte_lm_function", outcomes, corpus, options)


if __name__ == "__main__":
    main()
