"""`layouts.from_spec`, and `python -m bsparse_tf layout`."""

import argparse
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsparse_tf import layouts
from bsparse_tf.cli import layout as command

FIXED = settings(derandomize=True, deadline=None)


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("ba:m=4,seed=3", lambda: layouts.barabasi_albert(30, 4, 3, out_blocks=20)),
        ("barabasi_albert:m=4", lambda: layouts.barabasi_albert(30, 4, out_blocks=20)),
        ("ba:density=0.3", lambda: layouts.barabasi_albert(30, density=0.3, out_blocks=20)),
        ("ws:k=4,p=0.5,seed=1", lambda: layouts.watts_strogatz(30, 4, 0.5, 1, out_blocks=20)),
        (" ws : seed = 1 , k = 4 ", lambda: layouts.watts_strogatz(30, 4, seed=1, out_blocks=20)),
        ("ws:k=4,p=1", lambda: layouts.watts_strogatz(30, 4, 1.0, out_blocks=20)),
        ("random:density=1e-1", lambda: layouts.random(30, 0.1, out_blocks=20)),
        (
            "random:blocks=99,self_connections=true",
            lambda: layouts.random(30, blocks=99, self_connections=True, out_blocks=20),
        ),
        ("balanced:k=3", lambda: layouts.balanced_random(30, 3, out_blocks=20)),
        ("lattice:k=4", lambda: layouts.ring_lattice(30, 4, out_blocks=20)),
        ("diagonal:size=5", lambda: layouts.block_diagonal(30, 5, out_blocks=20)),
        ("banded:bandwidth=1", lambda: layouts.banded(30, 1, out_blocks=20)),
        ("butterfly", lambda: layouts.butterfly(30, out_blocks=20)),
        ("butterfly:radix=3", lambda: layouts.butterfly(30, 3, out_blocks=20)),
        ("dense", lambda: layouts.dense(30, out_blocks=20)),
        ("dense:", lambda: layouts.dense(30, out_blocks=20)),
    ],
)
def test_specs(spec, expected):
    np.testing.assert_array_equal(layouts.from_spec(spec, 30, 20), expected())


def test_square_is_the_default():
    assert layouts.from_spec("dense", 7).shape == (7, 7)


@FIXED
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_specs_carry_numbers_exactly(m, seed):
    np.testing.assert_array_equal(
        layouts.from_spec(f"ba:m={m},seed={seed}", 12), layouts.barabasi_albert(12, m, seed)
    )


@pytest.mark.parametrize(
    "spec, error, message",
    [
        ("bax:m=4", ValueError, r"family must be one of watts_strogatz, .*ws \(.* got 'bax'"),
        ("", ValueError, "family must be one of .* but got ''"),
        ("ba:k=4", ValueError, "barabasi_albert takes m, seed, density, but got 'k'"),
        ("ba:n=4", ValueError, "barabasi_albert takes m, seed, density, but got 'n'"),
        ("dense:m=4", ValueError, "dense takes no arguments, but got 'm'"),
        ("ba:m", ValueError, "written name=value .* but got 'm'"),
        ("ba:m=", ValueError, "written name=value .* but got 'm='"),
        ("ba:m=4,,seed=1", ValueError, "written name=value .* but got ''"),
        ("ba:m=4,m=5", ValueError, "m must be given once, but came twice"),
        ("ba:m=four", ValueError, "m must be a number, true or false, but got 'four'"),
        ("ba:m=4.5", TypeError, "m must be a whole number .* but got 4.5"),
        ("ba:m=99", ValueError, "m must be .* from 1 to 8 .* but got 99"),
        ("ba", ValueError, "needs either m or density, but got neither"),
        ("ws:k=2,p=nan", ValueError, "p must be .* but got nan"),
        ("ba:density=0.01", ValueError, r"density must be at least 0.3438 .* \(m=1\), but got 0"),
        (None, TypeError, "must be a text such as .* but got None"),
        (np.eye(3), TypeError, "must be a text such as"),
    ],
)
def test_bad_specs_quote_themselves(spec, error, message):
    with pytest.raises(error, match="layout spec .*" + message) as caught:
        layouts.from_spec(spec, 8)
    if isinstance(spec, str):
        assert repr(spec) in str(caught.value)


def test_bad_sizes():
    with pytest.raises(ValueError, match="in_blocks must be .* but got 0"):
        layouts.from_spec("dense", 0)
    with pytest.raises(TypeError, match="out_blocks must be .* but got 2.5"):
        layouts.from_spec("dense", 3, 2.5)


def run(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_command_make(capsys):
    assert run("make", "ba:m=2,seed=1", "12", "10") == 0
    layout = layouts.from_spec("ba:m=2,seed=1", 12, 10)
    blocks = layout.sum()
    assert capsys.readouterr().out.splitlines() == [
        f"12 x 10 blocks, {blocks} present, density {100 * blocks / 120:.4g}%",
        f"digest {layouts.digest(layout)}",
    ]


def test_command_describe(capsys):
    assert run("describe", "ws:k=4", "20") == 0
    layout = layouts.from_spec("ws:k=4", 20)
    out = capsys.readouterr().out
    assert str(layouts.stats(layout)) in out and layouts.digest(layout) in out


def test_command_draw(capsys, monkeypatch):
    layout = layouts.from_spec("ws:k=4", 20)
    assert run("draw", "ws:k=4", "20", "--width", "12") == 0
    assert capsys.readouterr().out == layouts.render(layout, 12) + "\n"
    assert run("draw", "ws:k=4", "20", "--style", "shade", "--width", "12") == 0
    assert capsys.readouterr().out == layouts.render(layout, 12, "shade") + "\n"
    # A terminal that knows ASCII alone gets ASCII.
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert run("draw", "ws:k=4", "20", "--width", "12") == 0
    command.sys.stdout.flush()
    written = command.sys.stdout.buffer.getvalue().decode()
    assert written == layouts.render(layout, 12, "ascii") + "\n"


def test_command_draw_png(tmp_path):
    pytest.importorskip("matplotlib").use("Agg")
    path = tmp_path / "layout.png"
    assert run("draw", "dense", "4", "--png", str(path)) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_command_save_and_read_again(tmp_path, capsys):
    first, second = str(tmp_path / "a.npy"), str(tmp_path / "b.npz")
    assert run("save", "butterfly", "12", "10", first) == 0
    assert run("save", first, second) == 0
    np.testing.assert_array_equal(layouts.load(second), layouts.butterfly(12, out_blocks=10))
    capsys.readouterr()
    assert run("make", second) == 0
    assert "12 x 10 blocks" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (("make", "bax", "4"), "family must be one of"),
        (("make", "ba:m=4"), "needs a number of input blocks"),
        (("make", "ba:m=4", "0"), "in_blocks must be"),
        (("make", "missing.npy"), "missing.npy"),
        (("make", "missing.npy", "4"), "has its own size, but sizes came"),
        (("save", "dense", "4", "layout.txt"), "path must end in .npy or .npz"),
        (("draw", "dense", "9", "--style", "half", "--width", "8"), "width must be at least 9"),
        (("draw", "dense", "9", "--width", "0"), "width must be a whole number of at least 1"),
    ],
)
def test_command_errors(words, message, capsys):
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("layout: ")
    assert message in captured.err
