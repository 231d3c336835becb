"""Texts for the language models: Python's documentation, or a corpus in a file.

Every corpus is bytes to train on, to validate on and to test on. Which form a path has is told by
its name, and can be said: text8, enwik8 (Mahoney's, as a file or the zip they come in; the first 90
parts of 100 for training, then 5 and 5, as everybody cuts them), wikitext (a directory or zip with
the three files of WikiText-103, whose cut is kept), plain (any file, cut like text8).
"""

import ast
import dataclasses
import pathlib
import sysconfig
import zipfile

import numpy as np

import text_data

KINDS = ("text8", "enwik8", "wikitext", "plain")
PARTS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Bytes to train on, to validate on and to test on: uint8 vectors."""

    name: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def load(path: pathlib.Path | None = None, kind: str | None = None) -> Corpus:
    """Reads a corpus.

    Args:
      path: file, zip or directory; None for Python's documentation.
      kind: one of KINDS; None to tell by the name.

    Raises:
      FileNotFoundError: no such file, or a part is not there.
      ValueError: a part is empty, or `kind` is not known.
    """
    if path is None:
        return _cut("Python's documentation", python_documentation())
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a text, a zip or a directory")
    kind = kind or _kind(path)
    if kind == "wikitext":
        return _checked(Corpus(str(path), *(_array(_wikitext(path, part)) for part in PARTS)))
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; expected a file for a corpus of kind {kind}")
    return _cut(str(path), _only_member(path) if zipfile.is_zipfile(path) else path.read_bytes())


def python_documentation() -> bytes:
    """The language reference that every CPython carries, then the docstrings of its library.

    A paragraph is kept only where it first appears, or the held-out parts would be full of text
    that was trained on.
    """
    paragraphs = text_data.read_text().decode("utf-8").split("\n\n")
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if {"test", "tests", "site-packages", "dist-packages", "idlelib"} & set(file.parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError:  # templates of 2to3 and the like
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                paragraphs += (ast.get_docstring(node) or "").split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs)).encode("utf-8")


def streams(text: np.ndarray, batch: int, length: int, what: str) -> np.ndarray:
    """The text as `batch` rows read side by side, uint8 [batch, bytes].

    Raises:
      ValueError: rows would be shorter than one sequence of `length` and the byte after it.
    """
    row = len(text) // batch
    if row <= length:
        raise ValueError(
            f"{what} has {len(text)} bytes, {row} for each of {batch} sequences read side by side; "
            f"expected more than {length} for each, the length of a sequence")
    return text[:row * batch].reshape(batch, row)


def _kind(path):
    name = path.name.lower()
    if path.is_dir() or "wikitext" in name:
        return "wikitext"
    return next((kind for kind in ("text8", "enwik8") if name.startswith(kind)), "plain")


def _cut(name, text):
    text = _array(text)
    first, second = round(len(text) * 0.9), round(len(text) * 0.95)
    return _checked(Corpus(name, text[:first], text[first:second], text[second:]))


def _wikitext(path, part):
    names = (f"wiki.{part}.tokens", f"wiki.{part}.raw")
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return (path / name).read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.rsplit("/", 1)[-1] in names:
                    return archive.read(member)
    raise FileNotFoundError(f"{path} has no {names[0]} or {names[1]}; expected the files of "
                            "WikiText-103 in a directory or a zip")


def _only_member(path):
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.namelist() if not member.endswith("/")]
        if len(members) != 1:
            raise ValueError(f"{path} holds {len(members)} files; expected one text")
        return archive.read(members[0])


def _array(text):
    return np.frombuffer(text, np.uint8)


def _checked(corpus):
    for part in PARTS:
        if not len(getattr(corpus, part)):
            raise ValueError(f"{corpus.name}: the part to {part} on is empty; expected text")
    return corpus
