"""Training a byte-level language model with carried state, averaged weights and checkpoints.

The text is cut into as many rows as there are sequences in a batch; a step reads the next piece of
every row and starts from the state that the step before ended in. Scores are those of an
exponential moving average of the weights.
"""

import dataclasses
import json
import pathlib
import zipfile

import keras
import numpy as np
import tensorflow as tf

import corpora
import options as example_options
import output
import report
from lstm_arms import Arm
from lstm_model import LanguageModel, bits_per_byte


ON_THE_WAY = 2**15  # bytes of the validation text that scores before the last one read


@dataclasses.dataclass
class Training:
    """How one network learns; the same for all that are compared."""

    steps: int
    batch: int
    length: int  # bytes of a sequence, over which gradients flow
    learning_rate: float
    reports: int = 10
    average: float = 0.999  # decay of the moving average of the weights
    clip: float = 1.0  # largest norm of all gradients together
    dtype: str = "float32"
    xla: bool = False
    recompute: bool = False


@dataclasses.dataclass
class Outcome:
    """How one network did. `curve` holds (step, seconds of training so far, valid bits/byte), the
    last of the whole validation text, those before of its beginning."""

    arm: Arm
    seed: int
    curve: list
    valid_bits: float = float("nan")
    test_bits: float = float("nan")
    bytes_per_second: float = float("nan")
    peak_memory: int | None = None  # bytes on the GPU; None on a CPU, which does not tell

    def to_json(self) -> dict:
        arm = dataclasses.asdict(self.arm)
        return {"arm": self.arm.name, "seed": self.seed, "parameters": self.arm.parameters,
                **{key: arm[key] for key in ("units", "stride", "internal_steps", "block_size")},
                "density": round(self.arm.density, 5),
                "valid_bits_per_byte": round(self.valid_bits, 4),
                "test_bits_per_byte": round(self.test_bits, 4),
                "bytes_per_second": round(self.bytes_per_second),
                "peak_memory": self.peak_memory,
                "curve": [[step, round(seconds, 2), round(bits, 4)]
                          for step, seconds, bits in self.curve]}


class Learner:
    """A model, its optimizer, the average of its weights and the state that is carried on."""

    def __init__(self, arm: Arm, training: Training, seed: int):
        keras.utils.set_random_seed(seed)
        self._training = training
        self.model = LanguageModel(arm, training.recompute, training.dtype)
        self._optimizer = keras.optimizers.Adam(beta_2=0.999, global_clipnorm=training.clip)
        self._optimizer.build(self.model.trainable_variables)
        self._averages = [tf.Variable(v.value) for v in self.model.trainable_variables]
        self._carried = [tf.Variable(s) for s in self.model.zero_states(training.batch)]
        self._update = tf.function(self._update, jit_compile=training.xla)
        self._score = tf.function(self._score, reduce_retracing=True)

    def variables(self) -> list:
        """All that training changes, in a fixed order."""
        return [*self.model.variables, *self._optimizer.variables, *self._averages, *self._carried]

    def forget(self) -> None:
        """Starts the carried state from zeros."""
        for state in self._carried:
            state.assign(tf.zeros_like(state))

    def update(self, step: int, pieces: np.ndarray) -> None:
        """One step on `pieces`, uint8 [batch, length + 1]."""
        rate = example_options.learning_rate(step, self._training)
        # A young average would be mostly the weights that training began with.
        decay = min(self._training.average, (1 + step) / (10 + step))
        self._update(tf.constant(pieces, tf.int32), tf.constant(rate), tf.constant(decay))

    def _update(self, pieces, rate, decay):
        self._optimizer.learning_rate.assign(rate)
        weights = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits, states = self.model(pieces[:, :-1], [s.value() for s in self._carried],
                                        training=True)
            bits = bits_per_byte(logits, pieces[:, 1:])
        gradients = tape.gradient(bits, [w.value for w in weights])
        self._optimizer.apply(gradients, weights)
        for average, weight in zip(self._averages, weights):
            average.assign(average + (1 - decay) * (weight.value - average))
        for carried, state in zip(self._carried, states):
            carried.assign(state)

    def averaged(self) -> "Learner":
        """Puts the averages into the model; for a learner that will not go on learning."""
        for weight, average in zip(self.model.trainable_variables, self._averages):
            weight.assign(average)
        return self

    def score(self, text: np.ndarray, what: str) -> float:
        """Bits per byte of a text by the averaged weights, state carried from piece to piece."""
        side_by_side = min(max(self._training.batch, 64), max(1, len(text) // 2048))
        rows = corpora.streams(text, side_by_side, 1, what)
        kept = [tf.identity(w.value) for w in self.model.trainable_variables]
        self.averaged()
        states = self.model.zero_states(len(rows))
        total, length = 0.0, max(self._training.length, 128)
        for start in range(0, rows.shape[1] - 1, length):
            piece = rows[:, start:start + length + 1]
            bits, states = self._score(tf.constant(piece, tf.int32), states)
            total += float(bits) * (piece.shape[1] - 1)
        for weight, value in zip(self.model.trainable_variables, kept):
            weight.assign(value)
        return total / (rows.shape[1] - 1)

    def _score(self, pieces, states):
        logits, states = self.model(pieces[:, :-1], states)
        return bits_per_byte(logits, pieces[:, 1:]), states


def train(arm: Arm, corpus: corpora.Corpus, training: Training, seed: int,
          checkpoint: pathlib.Path | None = None, resume: bool = False) -> Outcome:
    """Trains one network and scores it.

    Args:
      arm, corpus, training, seed: what is trained and how.
      checkpoint: file to write at every report; None for none.
      resume: go on from that file, if it is there, to the numbers of an unbroken run.

    Raises:
      ValueError: the corpus is too short, or the checkpoint is of another network or training.
    """
    rows = corpora.streams(corpus.train, training.batch, training.length, "the training text")
    learner = Learner(arm, training, seed)
    outcome = Outcome(arm, seed, [])
    made_by = {"arm": dataclasses.asdict(arm), "training": dataclasses.asdict(training),
               "seed": seed}
    done = 0
    if resume and checkpoint is not None and checkpoint.exists():
        done, outcome.curve = load_checkpoint(checkpoint, learner, made_by)
    watch = report.Stopwatch()
    already = outcome.curve[-1][1] if outcome.curve else 0.0
    pieces_a_row = (rows.shape[1] - 1) // training.length
    name = f"{arm.name} {seed}"
    for section in report.sections(training):
        if section.stop <= done:
            continue
        watch.start()
        for step in section:
            piece = step % pieces_a_row
            if piece == 0:
                learner.forget()
            start = piece * training.length
            learner.update(step, rows[:, start:start + training.length + 1])
            output.progress(name, step, training.steps)
        watch.stop(len(section))
        last = section.stop == training.steps
        text = corpus.valid if last else corpus.valid[:ON_THE_WAY]
        bits = learner.score(text, "the validation text")
        outcome.curve.append([section.stop, already + watch.seconds, bits])
        if checkpoint is not None:
            save_checkpoint(checkpoint, learner, made_by, section.stop, outcome.curve)
        output.progress(name, section.stop, training.steps, f"valid {bits:.3f} bits/byte")
    outcome.valid_bits = outcome.curve[-1][2]
    outcome.test_bits = learner.score(corpus.test, "the test text")
    outcome.bytes_per_second = _steps_per_second(outcome.curve) * training.batch * training.length
    if tf.config.list_physical_devices("GPU"):
        outcome.peak_memory = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return outcome


def _steps_per_second(curve) -> float:
    """Without the steps up to the first report, among which TensorFlow traces the graph."""
    (steps, seconds, _), (last_steps, last_seconds, _) = curve[0], curve[-1]
    if len(curve) == 1:
        return steps / seconds
    return (last_steps - steps) / (last_seconds - seconds)


# Checkpoints.


def save_checkpoint(path, learner, made_by, step, curve) -> None:
    values = {f"v{i}": _as_array(v) for i, v in enumerate(learner.variables())}
    notes = json.dumps({"made_by": made_by, "step": step, "curve": curve})
    with output.replacing(path) as temporary:
        np.savez(temporary, notes=notes, **values)


def load_checkpoint(path, learner, made_by=None) -> tuple[int, list]:
    """Puts a checkpoint into a learner; returns its step and curve.

    Raises:
      ValueError: it is no checkpoint, or of another network or training than `made_by`.
    """
    notes, values = _read(path)
    for part in (made_by or {}):
        if notes["made_by"][part] != made_by[part]:
            raise ValueError(f"{path} is a checkpoint with {part}={notes['made_by'][part]}; "
                             f"expected {made_by[part]}")
    for variable, value in zip(learner.variables(), values, strict=True):
        variable.assign(tf.cast(value, variable.dtype))
    return notes["step"], notes["curve"]


def load_learner(path: pathlib.Path) -> Learner:
    """The network of a checkpoint, with its averaged weights."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a checkpoint of lstm_lm.py")
    made_by = _read(path)[0]["made_by"]
    learner = Learner(Arm(**made_by["arm"]), Training(**made_by["training"]), made_by["seed"])
    load_checkpoint(path, learner)
    return learner.averaged()


def _read(path):
    try:
        with np.load(path) as archive:
            notes = json.loads(str(archive["notes"]))
            return notes, [archive[f"v{i}"] for i in range(len(archive.files) - 1)]
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint of lstm_lm.py") from error


def _as_array(variable):
    value = variable.numpy()
    # NumPy's files know no bfloat16; float32 holds it exactly.
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value
