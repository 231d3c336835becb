"""Reads the sentiment of texts off a language model's final cell state: the report's figure 7.

A language model of lstm_lm.py reads a newline, a space, the text and a space; tanh of its final
cell state are the features of the text. An L1-regularised logistic regression on them, its strength
chosen on the validation part, gives the test error and the number of features that it uses. Dense
and sparse models are compared, and both with counts of bytes and pairs of bytes.

Without --models two small models, dense and Barabasi-Albert, are first trained on generated reviews
(some minutes). Needs scikit-learn: pip install "bsparse-tf[sentiment]".
"""

import argparse
import pathlib

import numpy as np
import tensorflow as tf

import corpora
import lstm_arms
import lstm_lm
import lstm_training
import output
import reviews

STRENGTHS = [2.0**power for power in range(-8, 1)]
PIECE = 64  # bytes read at once


def reader(learner: lstm_training.Learner):
    """A function (bytes [N, PIECE], which of them count, states) -> states."""
    def read(piece, counts, states):
        hidden = learner.model.embedding(piece)
        _, *states = learner.model.lstm(hidden, initial_state=states, mask=counts)
        return states

    return tf.function(read, reduce_retracing=True)


def features(learner: lstm_training.Learner, read, texts: list[bytes], batch: int, name: str):
    """tanh of the cell state after each text, float32 [texts, units]; `read` is the reader.

    Texts of about the same length are read side by side. Shorter ones are padded at the end, and
    their state is taken where they end.
    """
    whole = [b"\n " + text + b" " for text in texts]
    order = np.argsort([len(text) for text in whole], kind="stable")
    found = np.zeros((len(texts), learner.model.lstm.cell.units), np.float32)
    for start in range(0, len(order), batch):
        rows = order[start:start + batch]
        lengths = np.array([len(whole[row]) for row in rows])
        width = -(-lengths.max() // PIECE) * PIECE
        padded = np.zeros((len(rows), width), np.int32)
        for i, row in enumerate(rows):
            padded[i, :lengths[i]] = np.frombuffer(whole[row], np.uint8)
        counts = np.arange(width) < lengths[:, np.newaxis]
        states = learner.model.zero_states(len(rows))
        for piece in range(0, width, PIECE):
            part = slice(piece, piece + PIECE)
            states = read(tf.constant(padded[:, part]), tf.constant(counts[:, part]), states)
        found[rows] = np.tanh(tf.cast(states[1], tf.float32).numpy())
        output.progress(name, min(start + batch, len(order)), len(order), "texts")
    return found


def byte_counts(texts: list[bytes]) -> np.ndarray:
    """The baseline: logarithms of the counts of bytes and of pairs of bytes, hashed to 4096."""
    counts = np.zeros((len(texts), 256 + 4096), np.float32)
    for row, text in zip(counts, texts):
        values = np.frombuffer(text, np.uint8).astype(np.int64)
        np.add.at(row, values, 1)
        np.add.at(row, 256 + (values[:-1] * 1009 + values[1:]) % 4096, 1)
    return np.log1p(counts)


def classify(parts, labels) -> dict:
    """Fits on the first part, chooses the strength on the second, tests on the third."""
    from sklearn.linear_model import LogisticRegression

    best = None
    for strength in STRENGTHS:
        model = LogisticRegression(l1_ratio=1, C=strength, solver="liblinear", random_state=0)
        model.fit(parts[0], labels[0])
        score = model.score(parts[1], labels[1])
        if best is None or score > best[0]:
            best = score, strength, model
    _, strength, model = best
    return {"strength": strength, "valid_error": round(100 * (1 - best[0]), 3),
            "test_error": round(100 * (1 - model.score(parts[2], labels[2])), 3),
            "features": int(parts[0].shape[1]), "used": int(np.count_nonzero(model.coef_))}


def train_models(options) -> dict:
    """Paths of a dense and a sparse model trained on generated reviews."""
    defaults = {**lstm_lm.PRESETS["tiny"], "steps": options.steps, "reports": 2}
    # An opinion helps to predict another a hundred bytes on.
    defaults |= {"batch": 32, "length": 128, "layout_seed": 0, "xla": False, "recompute": False}
    chosen = argparse.Namespace(**defaults)
    text = np.frombuffer(reviews.corpus(options.reviews, seed=1), np.uint8)
    cuts = np.split(text, [int(len(text) * 0.9), int(len(text) * 0.95)])
    corpus = corpora.Corpus("generated reviews", *cuts)
    training = lstm_lm.training_of(chosen)
    print(lstm_lm.describe(corpus, training))
    paths = {}
    for arm in lstm_arms.make_arms(("dense", "ba"), chosen):
        path = options.out / "sentiment" / f"{arm.name}.npz"
        outcome = lstm_training.train(arm, corpus, training, 0, path)
        print(f"{arm.name}: {arm.parameters:,} parameters, {outcome.test_bits:.3f} bits/byte")
        paths[arm.name] = path
    return paths


def draw(figure, found: dict) -> None:
    figure.set_size_inches(8, 3.6)
    errors, used = figure.subplots(1, 2)
    errors.bar(list(found), [one["test_error"] for one in found.values()], color="C0")
    used.bar(list(found), [one["used"] for one in found.values()], color="C1")
    errors.set_ylabel("test error, %")
    used.set_ylabel("features used")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, nargs="+", metavar="FILE",
                        help="checkpoints of lstm_lm.py, such as out/lstm_lm/dense-0.npz")
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                        help="labelled texts (default: generated reviews)")
    parser.add_argument("--kind", choices=reviews.KINDS, help="which set --data is")
    parser.add_argument("--texts", type=int, default=1000,
                        help="most texts to fit on, and to validate and test on (%(default)s)")
    parser.add_argument("--reviews", type=int, default=3000,
                        help="generated reviews that models are trained on (%(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of that training (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="texts read side by side")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", default=pathlib.Path("out"))
    options = parser.parse_args()
    try:
        import sklearn  # noqa: F401  An optional extra; missed now rather than after minutes.
    except ImportError:
        raise ValueError('scikit-learn is not installed; pip install "bsparse-tf[sentiment]"'
                         ) from None
    if (options.data is None) != (options.kind is None):
        raise ValueError("--data and --kind belong together: the texts, and which set they are")
    tf.config.experimental.enable_op_determinism()
    if options.data is None:
        texts = reviews.generated(options.texts, seed=2)
    else:
        texts = reviews.load(options.data, options.kind, options.texts)
    paths = ({path.stem: path for path in options.models} if options.models
             else train_models(options))
    parts = [getattr(texts, part) for part in ("train", "valid", "test")]
    labels = [part[1] for part in parts]
    found = {"bytes": classify([byte_counts(part[0]) for part in parts], labels)}
    for name, path in paths.items():
        learner = lstm_training.load_learner(path)
        read = reader(learner)
        found[name] = classify(
            [features(learner, read, part[0], options.batch, name) for part in parts], labels)
    rows = [{"features of": name, "test error, %": one["test_error"],
             "validation error, %": one["valid_error"], "features": one["features"],
             "used": one["used"], "C": one["strength"]} for name, one in found.items()]
    print(f"\n{texts.name}: {', '.join(str(len(part[1])) for part in parts)} texts to train on, "
          "validate and test")
    output.finish("sentiment", rows, {"texts": texts.name, "found": found}, options.out,
                  lambda figure: draw(figure, found))


if __name__ == "__main__":
    output.run(main)
