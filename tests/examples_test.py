"""The examples and the command line, run as a user runs them but on tiny settings."""

import json
import os
import pathlib
import subprocess
import sys
import time
import types

import pytest

import bsparse_tf
from bsparse_tf import cli
from bsparse_tf.benchmark import Cell, contenders, problem, report

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ("byte_lm", "byte_lm_function", "byte_lm_session")
TINY = ("--steps", "60", "--reports", "3", "--batch", "64", "--width", "64", "--widen", "4",
        "--block-size", "8", "--depth", "1", "--window", "16", "--embedding", "8",
        "--learning-rate", "3e-3")
# Bits of a byte before anything is learned, when all 256 are equally likely.
UNIFORM_BITS = 8.0


def run(*command, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_learns(example, tmp_path):
    done = run(ROOT / "examples" / f"{example}.py", *TINY, "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["example"] == example
    assert [arm["arm"] for arm in result["arms"]] == ["dense", "ws", "ba"]
    dense, *sparse = result["arms"]
    for arm in sparse:
        assert abs(arm["parameters"] / dense["parameters"] - 1) < 0.01
        assert arm["width"] > 2 * dense["width"]
        assert arm["density"] < 0.5
    for arm in result["arms"]:
        bits = [point[2] for point in arm["curve"]]
        assert len(bits) == 3
        assert bits[-1] < bits[0] < UNIFORM_BITS
        assert arm["valid_bits_per_byte"] < 5.0
        assert arm["steps_per_second"] > 0
        assert f"{arm['parameters']:,}" in done.stdout  # in the table
    assert json.loads((tmp_path / f"{example}.json").read_text()) == result
    assert (tmp_path / f"{example}.png").read_bytes().startswith(b"\x89PNG")


def test_example_takes_another_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(b"the cat sat on the mat. " * 400)
    done = run(ROOT / "examples" / "byte_lm_function.py", *TINY, "--arms", "ws", "--data", text,
               "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (arm,) = json.loads(done.stdout.strip().splitlines()[-1])["arms"]
    # Knowing only how often each letter comes would leave 2.9 bits.
    assert arm["valid_bits_per_byte"] < 2.0


def test_example_refuses_a_text_shorter_than_a_window(tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(b"too short")
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import text_data
    finally:
        sys.path.pop(0)
    with pytest.raises(ValueError, match="got 9 bytes, expected more than 160"):
        text_data.load_corpus(text, window=16)


def test_info_in_a_process_of_its_own():
    done = run("-m", "bsparse_tf", "info", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert pathlib.Path(facts["ops_library"]).is_file()
    assert facts["cpu_target"]
    assert facts["tensorflow"].startswith("2.")


def test_info(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert bsparse_tf.__version__ in text
    assert bsparse_tf.ops_library_path() in text
    assert "CPU kernels" in text and "Missing:" in text


def test_bench(tmp_path, capsys):
    arguments = ["--quick", "--size", "256", "--batch", "32", "--density", "0.25", "--axis", "1",
                 "--dtype", "float32", "--markdown", "--out", str(tmp_path)]
    assert cli.main(["bench", *arguments]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [cell["direction"] for cell in result["cells"]] == ["fprop", "dx", "dw"]
    for cell in result["cells"]:
        assert cell["correct"]
        assert cell["ours_ms"] > 0 and cell["dense_ms"] > 0 and cell["tf.sparse_ms"] > 0
        assert cell["blocks"] == 16
        assert 0 < cell["error"] < 1e-5
    assert "scipy_ms" in result["cells"][0]
    assert result["machine"]["cores"] >= 1
    assert len(result["break_even"]) == 3
    assert "| block 32 |" in capsys.readouterr().out
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_bench_notices_a_wrong_answer(tmp_path, capsys, monkeypatch):
    def off_by_a_little(*args, **kwargs):
        return matmul(*args, **kwargs) * 1.00001

    matmul = bsparse_tf.ops.matmul
    monkeypatch.setattr(bsparse_tf.ops, "matmul", off_by_a_little)
    arguments = ["--quick", "--size", "256", "--batch", "32", "--density", "0.25", "--axis", "1",
                 "--dtype", "float32", "--op", "fprop", "--no-peers", "--out", str(tmp_path)]
    assert cli.main(["bench", *arguments]) == 1
    captured = capsys.readouterr()
    assert "WRONG" in captured.out
    assert "1 of 1 cells gave a wrong answer" in captured.err


@pytest.mark.parametrize("maker", (contenders.ours, contenders.dense))
@contenders.only_as_written()
def test_a_window_of_the_benchmark_runs_every_product(maker):
    """TensorFlow prunes and merges what it can; a merged product would look 64 times as fast."""
    cell = Cell(16, 0.1, 1, "fprop", "float32", size=512, batch=192)
    contender = maker(problem.make_problem(cell))

    def seconds(repeats):
        contender.run(repeats)
        times = []
        for _ in range(7):
            start = time.perf_counter()
            contender.run(repeats)
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds(64) > 8 * seconds(1)


def test_bench_refuses_a_size_that_is_not_whole_blocks(tmp_path, capsys):
    assert cli.main(["bench", "--size", "100", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "size" in error and "100" in error


@pytest.mark.parametrize("times,expected", (
    ([(0.1, 0.2), (0.5, 0.6)], None),  # faster everywhere: time over dense time is below 1
    ([(0.1, 0.5), (0.5, 1.5)], 0.3),  # crosses in the middle
    ([(0.1, 1.2), (0.5, 3.0)], 0.1),  # slower from the first density on
))
def test_break_even(times, expected):
    points = [types.SimpleNamespace(density=density, ratio=1 / time) for density, time in times]
    density = report.break_even(points)
    assert density is None if expected is None else abs(density - expected) < 1e-9


@pytest.mark.parametrize("command", ([], ["info"], ["layout"], ["bench"]))
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*command, "--help"])
    assert exit_.value.code == 0
    assert "usage: python -m bsparse_tf" in capsys.readouterr().out
