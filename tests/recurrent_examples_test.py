"""The examples around SmallWorldLSTM, run as a user runs them but on tiny settings; their loaders
on small fixtures, and what they say to bad input."""

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TEXT = b"the cat sat on the mat and the dog lay on the rug. " * 400
LSTM = ("--width", "56", "--embedding", "8", "--steps", "24", "--batch", "8", "--length", "16",
        "--reports", "3", "--seeds", "1", "--learning-rate", "1e-2")
TINY = (*LSTM, "--widen", "4", "--internal-steps", "2")
UNIFORM_BITS = 8.0  # of a byte before anything is learned


@pytest.fixture(scope="module", name="text")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(TEXT)
    return path


@pytest.fixture(name="example")
def example_module(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(name, *arguments):
    return subprocess.run([sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
                          env=environment(), capture_output=True, text=True, timeout=300,
                          check=False)


def result_of(name, out, *arguments):
    """The JSON line of a run that went well; the files and the table are there, too."""
    done = run(name, *arguments, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["example"] == name
    assert json.loads((out / f"{name}.json").read_text()) == result
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert [file for file in out.rglob(".*")] == []  # Nothing temporary is left.
    return result


def assert_learned(network):
    bits = [point[2] for point in network["curve"]]
    assert bits[-1] < bits[0] < UNIFORM_BITS
    assert network["valid_bits_per_byte"] < 6.5 and network["test_bits_per_byte"] < 6.5
    assert network["bytes_per_second"] > 0


# The language model.


def test_lstm_lm(tmp_path, text):
    result = result_of("lstm_lm", tmp_path, *TINY, "--data", text)
    names = [network["arm"] for network in result["networks"]]
    assert names == ["dense", "ba", "ws", "random", "diagonal"]
    dense, *sparse = result["networks"]
    for network in result["networks"]:
        assert_learned(network)
    for network in sparse:
        assert abs(network["parameters"] / dense["parameters"] - 1) < 0.01
        assert network["units"] > 2 * dense["units"] and network["density"] < 0.5


def test_a_broken_run_goes_on_to_the_same_numbers(tmp_path, text):
    arguments = (*TINY, "--arms", "ba", "--steps", "60", "--reports", "20", "--data", text)
    unbroken = result_of("lstm_lm", tmp_path / "unbroken", *arguments)
    broken = tmp_path / "broken"
    checkpoint = broken / "lstm_lm" / "ba-0.npz"
    command = [sys.executable, EXAMPLES / "lstm_lm.py", *arguments, "--out", broken]
    with subprocess.Popen(list(map(str, command)), env=environment(), stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert checkpoint.exists() and not (broken / "lstm_lm.json").exists()
    steps = json.loads(str(np.load(checkpoint)["notes"]))["step"]
    assert 0 < steps < 60
    done = run("lstm_lm", *arguments, "--out", broken, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    resumed = json.loads(done.stdout.strip().splitlines()[-1])
    (one,), (other,) = unbroken["networks"], resumed["networks"]
    assert [point[::2] for point in one["curve"]] == [point[::2] for point in other["curve"]]
    assert one["test_bits_per_byte"] == other["test_bits_per_byte"]


def test_checkpoints_of_something_else(tmp_path, text):
    out = tmp_path / "out"
    result_of("lstm_lm", out, *TINY, "--arms", "dense", "--data", text)
    done = run("lstm_lm", *TINY, "--arms", "dense", "--data", text, "--out", out, "--resume",
               "--width", "40")
    assert done.returncode == 2
    assert "checkpoint" in done.stderr and "'units': 56" in done.stderr
    assert "expected" in done.stderr and "'units': 40" in done.stderr
    (out / "lstm_lm" / "dense-0.npz").write_bytes(b"half a file")
    done = run("lstm_lm", *TINY, "--arms", "dense", "--data", text, "--out", out, "--resume")
    assert done.returncode == 2 and "is not a checkpoint of lstm_lm.py" in done.stderr


@pytest.mark.parametrize("content, arguments, message", [
    (None, (), "does not exist"),
    (b"", (), "the part to train on is empty"),
    (b"short text " * 4, (), "expected more than 16 for each"),
    (TEXT, ("--steps", "0"), "--steps is 0; expected at least 1"),
    (TEXT, ("--widen", "0.1"), "no layout about 0.1 times as wide"),
])
def test_lstm_lm_refuses(tmp_path, content, arguments, message):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    done = run("lstm_lm", *TINY, "--arms", "ba", *arguments, "--data", path, "--out", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "lstm_lm.json").exists()


def test_the_paper_preset_has_the_papers_sizes(example):
    options = example("lstm_lm").parse(["--preset", "paper"])
    dense, sparse = example("lstm_arms").make_arms(("dense", "ba"), options)
    assert (dense.units, sparse.units) == (3168, 18432)
    assert abs(sparse.parameters / dense.parameters - 1) < 0.003
    assert 0.029 < sparse.density < 0.0295


def test_depth_study(tmp_path, text):
    result = result_of("depth_study", tmp_path, *LSTM, "--depths", "2", "5", "--data", text)
    shallow, deep = result["networks"]
    assert (shallow["internal_steps"], deep["internal_steps"]) == (2, 5)
    assert shallow["units"] > deep["units"]
    assert abs(shallow["parameters"] / deep["parameters"] - 1) < 0.1
    for network in result["networks"]:
        assert_learned(network)


# Graphs and kernels.


def test_small_world(tmp_path):
    result = result_of("small_world", tmp_path, "--blocks", "64", "--m", "3")
    stats = {one["layout"]: one for one in result["layouts"]}
    for one in stats.values():
        assert abs(one["blocks"] / stats["Barabasi-Albert"]["blocks"] - 1) < 0.2
    assert stats["Watts-Strogatz"]["clustering"] > 1.5 * stats["random"]["clustering"]
    assert stats["Watts-Strogatz"]["mean_path"] < 0.7 * stats["ring lattice"]["mean_path"]
    assert stats["block diagonal"]["hops_to_all"] is None
    assert stats["block diagonal"]["mean_path"] is None


def test_mixing_probe(tmp_path):
    result = result_of("mixing_probe", tmp_path, "--blocks", "16", "--block-size", "8",
                       "--neighbours", "4", "--depths", "3", "--steps", "250", "--batch", "64")
    found = {name: points[0][0] for name, points in result["accuracy_and_reached"].items()}
    for name in ("ring lattice", "block diagonal"):
        accuracy, reached = found[name]
        assert reached == 0 and accuracy < 0.53
    for name in ("Barabasi-Albert", "random"):
        accuracy, reached = found[name]
        assert reached > 0.9 and accuracy > 0.85


def test_mixing_probe_refuses_an_odd_ring(tmp_path):
    done = run("mixing_probe", "--blocks", "15", "--out", tmp_path)
    assert done.returncode == 2 and "--blocks is 15; expected an even number" in done.stderr


def test_kernel_figures(tmp_path):
    result = result_of("kernel_figures", tmp_path, "--size", "256", "--units", "64", "--blocks",
                       "8", "16", "--sparsities", "0", "0.75", "--rounds", "2")
    assert [round(row["sparsity"], 2) for row in result["figure_3"]] == [0, 0.75]
    assert all(row["speed_up"] > 0 for row in result["figure_3"])
    assert len(result["figure_4"]) == 5 * 2 * 2 * 3
    assert {row["units"] for row in result["figure_4"]} == {64, 128, 192, 256, 384}
    assert all(row["useful_gflops"] > 0 for row in result["figure_4"])


# Corpora.


def test_corpora(example, tmp_path):
    corpora = example("corpora")
    letters = bytes(range(97, 117)) * 5  # a hundred bytes
    for name, kind in (("text8", None), ("enwik8", None), ("notes.txt", None), ("x", "text8")):
        path = tmp_path / name
        path.write_bytes(letters)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(path, name)
        for given in (path, tmp_path / f"{name}.zip"):
            corpus = corpora.load(given, kind)
            assert [len(corpus.train), len(corpus.valid), len(corpus.test)] == [90, 5, 5]
            assert b"".join((corpus.train, corpus.valid, corpus.test)) == letters


@pytest.mark.parametrize("suffix", ["tokens", "raw"])
def test_wikitext(example, tmp_path, suffix):
    corpora = example("corpora")
    directory = tmp_path / "wikitext-103"
    directory.mkdir()
    for part in corpora.PARTS:
        (directory / f"wiki.{part}.{suffix}").write_bytes(part.encode())
    archive = tmp_path / "wikitext-103-v1.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in directory.iterdir():
            file.write(path, f"wikitext-103/{path.name}")
    for given in (directory, archive):
        corpus = corpora.load(given)
        assert [getattr(corpus, part).tobytes().decode() for part in corpora.PARTS] == [
            *corpora.PARTS]
    (directory / f"wiki.test.{suffix}").unlink()
    with pytest.raises(FileNotFoundError, match="no wiki.test.tokens or wiki.test.raw"):
        corpora.load(directory)


def test_corpora_refuse(example, tmp_path):
    corpora = example("corpora")
    with pytest.raises(FileNotFoundError, match="no_such does not exist"):
        corpora.load(tmp_path / "no_such")
    with pytest.raises(ValueError, match="is a directory"):
        corpora.load(tmp_path, "plain")
    two = tmp_path / "two.zip"
    with zipfile.ZipFile(two, "w") as archive:
        archive.writestr("a", b"a")
        archive.writestr("b", b"b")
    with pytest.raises(ValueError, match="holds 2 files; expected one text"):
        corpora.load(two)


def test_pythons_documentation(example):
    text = example("corpora").python_documentation()
    assert len(text) > 1_000_000
    paragraphs = text.split(b"\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert text == example("corpora").python_documentation()


def test_nothing_is_left_half_written(example, tmp_path):
    path = tmp_path / "result.json"
    path.write_text("before")
    with pytest.raises(RuntimeError), example("output").replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


# Sentiment.


def write_reviews(root, kind, rows):
    """A set with the same rows in every part, in the form in which it is published."""
    if kind == "sst":
        for part in ("train", "dev", "test"):
            (root / f"{part}.txt").write_text("".join(f"{4 * y}\t{x}\n2\tso so\n" for x, y in rows))
    elif kind == "imdb":
        for part in ("train", "test"):
            for i, (text, label) in enumerate(rows):
                directory = root / part / ("neg", "pos")[label]
                directory.mkdir(parents=True, exist_ok=True)
                (directory / f"{i:03}.txt").write_text(text)
    elif kind == "yelp":
        for part in ("train", "test"):
            (root / f"{part}.csv").write_text("".join(f'"{y + 1}","{x}"\n' for x, y in rows))
    else:
        for label, name in enumerate(("custrev.neg", "custrev.pos")):
            (root / name).write_text("".join(f"{x}\n" for x, y in rows if y == label))


ROWS = [(f"text number {i} is {'bad, very' if i % 2 == 0 else 'good'}", i % 2) for i in range(60)]


@pytest.mark.parametrize("kind", ["sst", "imdb", "yelp", "cr"])
def test_review_loaders(example, tmp_path, kind):
    reviews = example("reviews")
    write_reviews(tmp_path, kind, ROWS)
    texts = reviews.load(tmp_path, kind)
    labels = {text.encode(): label for text, label in ROWS}
    for part in (texts.train, texts.valid, texts.test):
        assert len(part[0]) == len(part[1]) > 0
        assert all(labels[text] == label for text, label in zip(*part))
    if kind in ("imdb", "yelp"):
        assert not set(texts.train[0]) & set(texts.valid[0])
        assert len(texts.train[0]) + len(texts.valid[0]) == len(ROWS)
    if kind == "cr":
        assert sorted(texts.train[0] + texts.valid[0] + texts.test[0]) == sorted(labels)
    assert len(reviews.load(tmp_path, kind, most=20).train[0]) == 20


@pytest.mark.parametrize("kind", ["sst", "imdb", "yelp", "cr"])
def test_reviews_of_one_class_or_missing(example, tmp_path, kind):
    reviews = example("reviews")
    with pytest.raises(FileNotFoundError):
        reviews.load(tmp_path, kind)
    write_reviews(tmp_path, kind, [(text, 1) for text, _ in ROWS])
    if kind == "cr":
        (tmp_path / "custrev.neg").write_text("")
    with pytest.raises(ValueError, match=r"with labels \[1\]; expected both 0 and 1"):
        reviews.load(tmp_path, kind)


def test_sst_as_a_table(example, tmp_path):
    reviews = example("reviews")
    for part in ("train", "dev", "test"):
        (tmp_path / f"{part}.tsv").write_text(
            "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS))
    assert len(reviews.load(tmp_path, "sst").train[0]) == len(ROWS)
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\ntext\tpositive\n")
    with pytest.raises(ValueError, match="label 'positive'; expected a whole number"):
        reviews.load(tmp_path, "sst")


def test_generated_reviews(example):
    reviews = example("reviews")
    texts, labels = reviews.generate(400, seed=0)
    assert labels.mean() == 0.5 and len(set(texts)) > 390
    again, _ = reviews.generate(400, seed=0)
    assert texts == again
    other, _ = reviews.generate(400, seed=1)
    assert len(set(texts) & set(other)) == 0
    # The polarity shows, but not in any one word.
    good = np.array([sum(text.count(word.encode()) for word in reviews._GOOD) for text in texts])
    bad = np.array([sum(text.count(word.encode()) for word in reviews._BAD) for text in texts])
    by_words = np.mean((good > bad) == labels)
    assert 0.75 < by_words < 0.99


def test_features_do_not_depend_on_padding(example):
    training, arms = example("lstm_training"), example("lstm_arms")
    sentiment = example("sentiment")
    learner = training.Learner(arms.dense_arm(16, 2, 8), training.Training(1, 2, 4, 1e-3), seed=0)
    texts = [b"short", b"a text that is longer than a piece of sixty-four bytes, for it goes on"]
    read = sentiment.reader(learner)
    both = sentiment.features(learner, read, texts, 2, "both")
    alone = [sentiment.features(learner, read, [text], 1, "alone")[0] for text in texts]
    np.testing.assert_allclose(both, alone, atol=1e-6)
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_sentiment(tmp_path):
    pytest.importorskip("sklearn")
    result = result_of("sentiment", tmp_path, "--steps", "2", "--reviews", "300", "--texts", "100")
    assert set(result["found"]) == {"bytes", "dense", "ba"}
    for one in result["found"].values():
        assert 0 <= one["test_error"] <= 100 and 0 <= one["used"] <= one["features"]
    assert result["found"]["bytes"]["test_error"] < 40
    models = [tmp_path / "sentiment" / "dense.npz"]
    write_reviews(tmp_path, "yelp", ROWS)
    result = result_of("sentiment", tmp_path, "--models", *models, "--data", tmp_path, "--kind",
                       "yelp")
    assert set(result["found"]) == {"bytes", "dense"}
    assert result["found"]["bytes"]["test_error"] == 0


@pytest.mark.parametrize("arguments, message", [
    (("--data", "reviews"), "--data and --kind belong together"),
    (("--data", "no_such", "--kind", "cr"), "no_such"),
    (("--models", "no_such.npz"), "no_such.npz does not exist"),
])
def test_sentiment_refuses(tmp_path, arguments, message):
    pytest.importorskip("sklearn")
    done = run("sentiment", *arguments, "--texts", "20", "--out", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
