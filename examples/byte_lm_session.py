"""The model of byte_lm.py as a TensorFlow 1 script: a graph, placeholders, a session."""

import tensorflow as tf

import options as example_options
import plain_model
import report
import text_data
from arms import Arm, make_arms

tf1 = tf.compat.v1


def train(arm: Arm, corpus: text_data.Corpus, options) -> report.Outcome:
    network = plain_model.Network(arm)
    with tf.Graph().as_default() as graph:
        windows = tf1.placeholder(tf.int32, [None, options.window], "windows")
        bytes_after = tf1.placeholder(tf.int32, [None], "bytes_after")
        learning_rate = tf1.placeholder(tf.float32, [], "learning_rate")
        variables = {name: tf1.get_variable(name, initializer=value) for name, value
                     in plain_model.initial_values(arm, options.seed).items()}
        bits = plain_model.bits_per_byte(network(variables, windows), bytes_after)
        # The epsilon is Keras's, so that the three examples do the same.
        update = tf1.train.AdamOptimizer(learning_rate, epsilon=1e-7).minimize(bits)
        initialize = tf1.global_variables_initializer()

    outcome = report.Outcome(arm)
    starts = text_data.training_starts(corpus, options.window, options.batch, options.steps,
                                       options.seed)
    with tf1.Session(graph=graph) as session:
        session.run(initialize)

        def feeds(text, rows):
            return dict(zip((windows, bytes_after),
                            text_data.windows(text, rows, options.window)))

        def validate(at_most=None):
            places = text_data.validation_starts(corpus, options.window, at_most)
            batches = [places[i:i + 1024] for i in range(0, len(places), 1024)]
            return sum(session.run(bits, feeds(corpus.valid, batch)) * len(batch)
                       for batch in batches) / len(places)

        watch = report.Stopwatch()
        for section in report.sections(options):
            watch.start()
            for i in section:
                rate = example_options.learning_rate(i, options)
                session.run(update, {**feeds(corpus.train, starts[i]), learning_rate: rate})
            watch.stop(len(section))
            outcome.curve.append((section.stop, watch.seconds, float(validate(4096))))
            report.progress_bar(arm.name, section.stop, options.steps,
                                f"valid {outcome.curve[-1][2]:.3f} bits/byte")
        outcome.valid_bits = float(validate())
    outcome.steps_per_second = watch.steps_per_second
    return outcome


def main() -> None:
    tf1.disable_v2_behavior()
    options = example_options.parse(__doc__)
    corpus = text_data.load_corpus(options.data, options.window)
    print(report.describe(corpus, options))
    outcomes = [train(arm, corpus, options) for arm in make_arms(options)]
    report.finish("byte_lm_session", outcomes, corpus, options)


if __name__ == "__main__":
    main()
