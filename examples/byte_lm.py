"""A byte-level language model trained through Keras `fit`: dense against block-sparse.

Three networks with equally many parameters read a window of bytes and predict the next one. One
has dense layers; two have wider, block-sparse layers whose blocks are laid out as a small-world
graph (Watts-Strogatz) and as a scale-free one (Barabasi-Albert). All get the same text in the same
order, the same optimiser and the same number of steps; the bits/byte are of held-out text.
"""

import math
import sys

import keras
import tensorflow as tf

import options as example_options
import report
import text_data
from arms import BYTES, Arm, make_arms
from bsparse_tf.keras import BlockSparseDense


class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """`options.learning_rate` as a table, so that all three examples follow the same numbers."""

    def __init__(self, options):
        self._table = tf.constant([example_options.learning_rate(step, options)
                                   for step in range(options.steps)])

    def __call__(self, step):
        return tf.gather(self._table, tf.minimum(tf.cast(step, tf.int32), len(self._table) - 1))


def bits_per_byte(byte, logits):
    nats = keras.losses.sparse_categorical_crossentropy(byte, logits, from_logits=True)
    return nats / math.log(2)


def make_model(arm: Arm, window: int) -> keras.Model:
    """The network of arms.py, out of Keras layers."""
    last = len(arm.shapes) - 1

    def layer(index):
        units, layout = arm.shapes[index][1], arm.layouts[index]
        # With the last layer zero, training starts from equally likely bytes.
        arguments = {"activation": "relu" if index < last else None,
                     "kernel_initializer": "he_normal" if index < last else "zeros"}
        if layout is None:
            return keras.layers.Dense(units, **arguments)
        return BlockSparseDense(units, block_size=arm.block_size, layout=layout, **arguments)

    inputs = keras.Input((window,), dtype="int32")
    hidden = keras.layers.Embedding(BYTES, arm.embedding)(inputs)
    hidden = keras.layers.Flatten()(hidden)
    hidden = layer(0)(hidden)
    for index in range(1, last):
        hidden = keras.layers.add([hidden, layer(index)(hidden)])
    return keras.Model(inputs, layer(last)(hidden), name=arm.name)


class Curve(keras.callbacks.Callback):
    """Times the training alone and notes the validation after each epoch."""

    def __init__(self, outcome: report.Outcome, epoch_steps: int):
        super().__init__()
        self._outcome, self._epoch_steps = outcome, epoch_steps
        self._watch = report.Stopwatch()

    def on_epoch_begin(self, epoch, logs=None):
        self._watch.start()

    def on_test_begin(self, logs=None):
        self._watch.stop(self._epoch_steps)

    def on_epoch_end(self, epoch, logs=None):
        self._outcome.curve.append(((epoch + 1) * self._epoch_steps, self._watch.seconds,
                                    logs["val_bits_per_byte"]))

    def on_train_end(self, logs=None):
        self._outcome.steps_per_second = self._watch.steps_per_second


def train(arm: Arm, corpus: text_data.Corpus, options) -> report.Outcome:
    keras.utils.set_random_seed(options.seed)
    model = make_model(arm, options.window)
    if model.count_params() != arm.parameters:
        raise AssertionError(f"{arm.name}: the model has {model.count_params()} parameters, "
                             f"arms.py says {arm.parameters}")
    model.compile(optimizer=keras.optimizers.Adam(LearningRate(options)),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  metrics=[bits_per_byte])
    outcome = report.Outcome(arm)
    epoch_steps = options.steps // options.reports
    starts = text_data.training_starts(corpus, options.window, options.batch,
                                       epoch_steps * options.reports, options.seed)
    some = text_data.windows(corpus.valid,
                             text_data.validation_starts(corpus, options.window, 4096),
                             options.window)
    print(f"\n{arm.name}: {arm.parameters:,} parameters, width {arm.width}, "
          f"density {arm.density:.1%}")
    model.fit(text_data.dataset(corpus.train, starts, options.window).repeat(),
              epochs=options.reports, steps_per_epoch=epoch_steps,
              validation_data=some, validation_batch_size=1024,
              callbacks=[Curve(outcome, epoch_steps)], shuffle=False,
              verbose=1 if sys.stdout.isatty() else 2)
    everything = text_data.windows(corpus.valid,
                                   text_data.validation_starts(corpus, options.window),
                                   options.window)
    outcome.valid_bits = model.evaluate(*everything, batch_size=1024, verbose=0,
                                        return_dict=True)["bits_per_byte"]
    return outcome


def main() -> None:
    options = example_options.parse(__doc__)
    options.reports = min(options.reports, options.steps)
    corpus = text_data.load_corpus(options.data, options.window)
    print(report.describe(corpus, options))
    outcomes = [train(arm, corpus, options) for arm in make_arms(options)]
    report.finish("byte_lm", outcomes, corpus, options)


if __name__ == "__main__":
    main()
