"""Labelled texts: the data sets of the 2017 report's figure 7 by path, and generated reviews.

Each set is texts with labels 0 (negative) and 1 (positive) to train on, to validate on and to test
on. The layouts that the loaders take are those the sets are published in:

  sst    directory with train, dev and test as .txt (a label 0..4, a tab or comma, the text; 2 is
         left out) or .tsv/.csv (binary, as in GLUE or in Radford's "sentence,label")
  imdb   the directory aclImdb, with train/{pos,neg}/*.txt and test/{pos,neg}/*.txt
  yelp   directory with train.csv and test.csv ("1" or "2", then the text)
  cr     directory with custrev.pos and custrev.neg, a text a line
"""

import csv
import dataclasses
import pathlib

import numpy as np

KINDS = ("sst", "imdb", "yelp", "cr")


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Each part is (texts, labels): a list of bytes and an int array of 0 and 1."""

    name: str
    train: tuple
    valid: tuple
    test: tuple


def load(path: pathlib.Path, kind: str, most: int | None = None, seed: int = 0) -> LabelledTexts:
    """Reads a set.

    Args:
      path: its directory.
      kind: one of KINDS.
      most: texts to keep of each part, drawn at random; None for all.
      seed: of that draw, and of the tenth that is set aside for validation (cr: also for testing)
        where a set has no such part.

    Raises:
      FileNotFoundError: a file is not there.
      ValueError: a file cannot be read as that set, or a part has labels of one class only.
    """
    readers = {"sst": _sst, "imdb": _imdb, "yelp": _yelp, "cr": _cr}
    if kind not in readers:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    rng = np.random.default_rng(seed)
    parts = [_drawn(part, most, rng) for part in readers[kind](pathlib.Path(path), rng)]
    return checked(LabelledTexts(f"{kind} {path}", *parts))


def checked(texts: LabelledTexts) -> LabelledTexts:
    """The same; ValueError if a part is empty or has labels of one class only."""
    for part in ("train", "valid", "test"):
        labels = getattr(texts, part)[1]
        if len(set(labels)) < 2:
            raise ValueError(f"{texts.name}: the part to {part} on has {len(labels)} texts with "
                             f"labels {sorted(set(map(int, labels)))}; expected both 0 and 1")
    return texts


def _sst(root, rng):
    return [_sst_part(root, names) for names in (("train",), ("dev", "valid"), ("test",))]


def _sst_part(root, names):
    for name in names:
        for suffix in (".txt", ".tsv", ".csv"):
            path = root / (name + suffix)
            if path.is_file():
                return _sst_file(path)
    raise FileNotFoundError(f"{root} has no {names[0]}.txt, .tsv or .csv")


def _sst_file(path):
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".txt":
            rows = [(line[2:].strip(), line[:1]) for line in file if line.strip()]
        else:
            reader = csv.reader(file, delimiter="," if path.suffix == ".csv" else "\t")
            rows = [tuple(row[:2]) for row in reader if len(row) >= 2][1:]  # less the heading
    fine = path.suffix == ".txt"
    kept = [(text, _label(path, label)) for text, label in rows]
    if fine:
        kept = [(text, int(label > 2)) for text, label in kept if label != 2]
    return _part(kept)


def _imdb(root, rng):
    def read(part):
        files = [(file, label) for label, name in enumerate(("neg", "pos"))
                 for file in sorted((root / part / name).glob("*.txt"))]
        if not files:
            raise FileNotFoundError(f"{root / part} has no neg/*.txt and pos/*.txt")
        return _part([(file.read_text(encoding="utf-8"), label) for file, label in files])

    return *_set_aside(read("train"), rng), read("test")


def _yelp(root, rng):
    def read(name):
        path = root / name
        with path.open(encoding="utf-8", newline="") as file:
            return _part([(row[1], _label(path, row[0]) - 1) for row in csv.reader(file)])

    return *_set_aside(read("train.csv"), rng), read("test.csv")


def _cr(root, rng):
    rows = []
    for label, name in enumerate(("custrev.neg", "custrev.pos")):
        lines = (root / name).read_text(encoding="latin-1").splitlines()
        rows += [(line.strip(), label) for line in lines if line.strip()]
    rest, test = _set_aside(_part(rows), rng)
    return *_set_aside(rest, rng), test


def _label(path, text):
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{path} has the label {text!r}; expected a whole number") from None


def _part(rows):
    texts = [text.encode("utf-8") for text, _ in rows]
    return texts, np.array([label for _, label in rows], np.int32)


def _set_aside(part, rng):
    """Nine parts of ten, and the tenth."""
    order = rng.permutation(len(part[1]))
    cut = len(order) // 10
    return _taken(part, order[cut:]), _taken(part, order[:cut])


def _drawn(part, most, rng):
    if most is None or len(part[1]) <= most:
        return part
    return _taken(part, rng.permutation(len(part[1]))[:most])


def _taken(part, order):
    texts, labels = part
    return [texts[i] for i in order], labels[order]


# Generated reviews.

_SUBJECTS = ("camera", "phone", "blender", "novel", "film", "headset", "lamp", "printer", "jacket",
             "keyboard", "guitar", "tent", "watch", "stroller", "game", "kettle")
_GOOD = ("excellent", "reliable", "lovely", "sturdy", "superb", "bright", "wonderful", "handy")
_BAD = ("awful", "flimsy", "useless", "noisy", "dreadful", "cheap", "faulty", "clumsy")
_ASPECTS = ("the manual", "the price", "the box", "the colour", "the size", "the shipping",
            "the finish", "the sound")
_NEUTRAL = (
    "I bought the {subject} in {month}.", "My sister has the same {subject}.",
    "It came with a cable and a small bag.", "{aspect} is about what the page says.",
    "I use it {often}.", "There are two versions of this {subject}.",
    "We took it along on a trip in {month}.", "It replaced my old {subject}.",
)
_OPINIONS = (
    "{aspect} is {word}.", "I find {aspect} {word}.", "It is {not_}{word}.",
    "What a {word} {subject}!", "Honestly, a {word} thing.", "{aspect} feels {word} to me.",
)
_LAST = {1: ("I would buy it again.", "Five stars.", "I recommend it."),
         0: ("I sent it back.", "One star.", "Save your money.")}
_MONTHS = ("January", "March", "May", "June", "August", "October", "December")


def generate(count: int, seed: int) -> tuple[list[bytes], np.ndarray]:
    """Reviews whose polarity shows in some of their sentences, negations among them; half of each.

    The last sentence, a verdict, agrees with opinions that stand hundreds of bytes before it, so
    that a language model gains by keeping the polarity in mind.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 2).astype(np.int32)
    return [_review(int(label), rng).encode() for label in labels], labels


def corpus(count: int, seed: int) -> bytes:
    """Generated reviews as a text to learn, one a line, each with its verdict."""
    texts, labels = generate(count, seed)
    rng = np.random.default_rng(seed + 1)
    ends = [_LAST[int(label)][rng.integers(3)].encode() for label in labels]
    return b"\n".join(text + b" " + end for text, end in zip(texts, ends))


def generated(train: int, seed: int) -> LabelledTexts:
    """`train` reviews to fit on, and a half as many each to validate and to test on."""
    sizes = (train, train // 2, train // 2)
    return checked(LabelledTexts("generated reviews", *(
        generate(size, 1000 * seed + i) for i, size in enumerate(sizes))))


def _review(label, rng):
    def pick(values):
        return values[rng.integers(len(values))]

    subject = pick(_SUBJECTS)
    sentences = []
    # Some opinions go the other way; two more go the review's.
    leanings = [label] * 3 + [1 - label] + [None] * int(rng.integers(3, 7))
    for leaning in rng.permutation(np.array(leanings, object)):
        template = pick(_NEUTRAL if leaning is None else _OPINIONS)
        negated = "{not_}" in template and rng.integers(2)
        words = _GOOD if leaning != bool(negated) else _BAD
        sentence = template.format(
            subject=subject, month=pick(_MONTHS), aspect=pick(_ASPECTS), word=pick(words),
            often=pick(("every day", "once a week", "at work")), not_="not " if negated else "")
        sentences.append(sentence[0].upper() + sentence[1:])
    return " ".join(sentences)
