"""`layouts.render` and `layouts.plot`."""

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from bsparse_tf import layouts

FIXED = settings(derandomize=True, deadline=None)
LAYOUTS = hypothesis_numpy.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))).filter(
    np.any
)
# The dots of a braille character, by its Unicode name: dot number -> (row, column).
BRAILLE = {1: (0, 0), 2: (1, 0), 3: (2, 0), 4: (0, 1), 5: (1, 1), 6: (2, 1), 7: (3, 0), 8: (3, 1)}


def read_half(text, shape):
    layout = np.zeros((shape[0] + 1, shape[1]), bool)
    for row, line in enumerate(text.split("\n")):
        for column, character in enumerate(line):
            layout[2 * row, column] = character in "▀█"
            layout[2 * row + 1, column] = character in "▄█"
    return layout[: shape[0]]


def read_braille(text, shape):
    layout = np.zeros((shape[0] + 3, shape[1] + 1), bool)
    for row, line in enumerate(text.split("\n")):
        for column, character in enumerate(line):
            for dot, (down, right) in BRAILLE.items():
                if ord(character) - 0x2800 >> dot - 1 & 1:
                    layout[4 * row + down, 2 * column + right] = True
    return layout[: shape[0], : shape[1]]


@FIXED
@given(LAYOUTS)
def test_exact_styles_show_every_block(layout):
    for style, read in (("half", read_half), ("braille", read_braille)):
        text = layouts.render(layout, style=style)
        np.testing.assert_array_equal(read(text, layout.shape), layout)


@FIXED
@given(LAYOUTS, st.integers(1, 30), st.sampled_from(["auto", "shade", "ascii"]))
def test_lines_fit_the_width(layout, width, style):
    lines = layouts.render(layout, width, style).split("\n")
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip(" \u2800") for line in lines)


def test_auto_takes_the_finest_style_that_fits():
    layout = layouts.watts_strogatz(40, 4)
    assert layouts.render(layout, 40) == layouts.render(layout, 40, "half")
    assert layouts.render(layout, 39) == layouts.render(layout, 39, "braille")
    assert layouts.render(layout, 20) == layouts.render(layout, 20, "braille")
    assert layouts.render(layout, 19) == layouts.render(layout, 19, "shade")


def test_small_drawings():
    layout = layouts.block_diagonal(4, 2)
    assert layouts.render(layout) == "██\n  ██"
    assert layouts.render(layout, style="braille") == "⠛⣤"
    assert layouts.render(layout, width=2) == "⠛⣤"
    assert layouts.render(layouts.dense(3)) == "███\n▀▀▀"
    assert layouts.render(layouts.dense(8), width=4, style="ascii") == "####\n####"


def test_shades_tell_how_full_a_part_is():
    layout = np.zeros((8, 32), bool)
    layout[:, :8] = True  # full
    layout[:4, 8:16] = True  # half full
    layout[0, 16:24] = True  # an eighth
    # On average 13/32 of a part is present.
    assert layouts.render(layout, 4, "shade") == "█▒░"
    layout[:2, 16:24] = layout[:2, 24:] = True  # a quarter, and so on average half
    assert layouts.render(layout, 4, "ascii") == "#:.."


def test_render_rejects():
    for arguments, message in [
        (([[2]],), "layout must hold only 0 and 1"),
        (([[1]], 0), "width must be a whole number of at least 1, but got 0"),
        (([[1]], 80, "dots"), "style must be one of auto, half, .* but got 'dots'"),
        ((np.ones((2, 9)), 8, "half"), "width must be at least 9 .* but got 8"),
        ((np.ones((2, 9)), 4, "braille"), "width must be at least 5 .* but got 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            layouts.render(*arguments)


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_plot_shows_every_block(pyplot):
    layout = layouts.barabasi_albert(30, 2, out_blocks=20)
    ax = layouts.plot(layout)
    assert ax.get_title() == f"30 x 20 blocks, density {100 * layout.mean():.3g}%"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("output block", "input block")
    np.testing.assert_array_equal(ax.images[0].get_array(), layout)
    ax.figure.canvas.draw()


def test_plot_draws_on_given_axes(pyplot):
    figure, axes = pyplot.subplots(1, 2)
    assert layouts.plot([[1, 0]], ax=axes[1], title="mine", color="red") is axes[1]
    assert axes[1].get_title() == "mine"
    assert not axes[0].images
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(axis=1).any()


def test_plot_without_matplotlib_says_how_to_get_it(monkeypatch):
    real_import = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError("No module named 'matplotlib'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(ImportError, match=r'pip install "bsparse-tf\[plot\]"'):
        layouts.plot([[1]])
