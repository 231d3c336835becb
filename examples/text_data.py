"""The text that the byte-level examples learn, and how windows are cut from it."""

import dataclasses
import pathlib
import pydoc_data.topics

import numpy as np

HELD_OUT = 0.1  # share of the text, at its end, that is never trained on


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes to validate on, uint8 vectors that share no paragraph."""

    name: str
    train: np.ndarray
    valid: np.ndarray


def read_text(path: pathlib.Path | None = None) -> bytes:
    """The file's bytes, or the language reference that every CPython carries.

    Python's topics quote one another at length. A paragraph is kept only where it first appears,
    or the held-out part would be full of text that was trained on.
    """
    if path is not None:
        return path.read_bytes()
    topics = pydoc_data.topics.topics
    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs)).encode("utf-8")


def load_corpus(path: pathlib.Path | None, window: int) -> Corpus:
    """Reads and splits the text; raises ValueError if it is too short for windows of `window`."""
    text = np.frombuffer(read_text(path), np.uint8)
    split = int(len(text) * (1 - HELD_OUT))
    corpus = Corpus(str(path or "pydoc_data.topics"), text[:split], text[split:])
    if len(corpus.valid) <= window:
        raise ValueError(f"{corpus.name}: got {len(text)} bytes, expected more than "
                         f"{round(window / HELD_OUT)} for a window of {window}")
    return corpus


def training_starts(corpus: Corpus, window: int, batch: int, steps: int,
                    seed: int) -> np.ndarray:
    """Where the windows of each step begin, int32 [steps, batch].

    Every position comes once before any comes again. All arms get the same ones in the same order.
    """
    rng = np.random.default_rng(seed)
    positions = len(corpus.train) - window
    passes = -(-steps * batch // positions)
    order = np.concatenate([rng.permutation(positions) for _ in range(passes)])
    return order[:steps * batch].reshape(steps, batch).astype(np.int32)


def validation_starts(corpus: Corpus, window: int, at_most: int | None = None) -> np.ndarray:
    """Where windows of the held-out text begin: everywhere, or `at_most` evenly spread places."""
    positions = len(corpus.valid) - window
    count = min(positions, at_most or positions)
    return np.linspace(0, positions - 1, count).astype(np.int32)


def windows(text: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows int32 [batch, window], newest byte first, and the byte after each, int32 [batch].

    A dense layer does not care for the order of its inputs. In a Barabasi-Albert layout the first
    blocks have the most connections, and the newest bytes say most about the next one.
    """
    taken = text[starts[:, np.newaxis] + np.arange(window, -1, -1)].astype(np.int32)
    return taken[:, 1:], taken[:, 0]


def dataset(text: np.ndarray, starts: np.ndarray, window: int):
    """A tf.data.Dataset of `windows` for each row of `starts` [steps, batch]."""
    import tensorflow as tf  # the rest of this module is NumPy only

    everything = tf.constant(text)
    reach = tf.range(window, -1, -1)

    def cut(row):
        taken = tf.cast(tf.gather(everything, row[:, tf.newaxis] + reach), tf.int32)
        return taken[:, 1:], taken[:, 0]

    return tf.data.Dataset.from_tensor_slices(starts).map(cut).prefetch(8)
