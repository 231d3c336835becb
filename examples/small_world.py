"""The layouts of the 2017 report's figure 6, drawn and measured at an equal number of blocks.

Degree, clustering, path length and reach per hop: what makes a small world is that clustering stays
far above that of a random graph while the mean path is about as short.
"""

import argparse
import pathlib

from bsparse_tf import layouts
import output


def make_layouts(blocks: int, m: int, seed: int) -> dict:
    """Layouts by name; all have about as many blocks as the Barabasi-Albert graph."""
    made = {"Barabasi-Albert": layouts.barabasi_albert(blocks, m, seed)}
    density = float(made["Barabasi-Albert"].mean())
    return {
        "random": layouts.random(blocks, density=density, seed=seed, self_connections=True),
        "balanced random": layouts.balanced_random(blocks, density=density, seed=seed),
        "Watts-Strogatz": layouts.watts_strogatz(blocks, density=density, seed=seed),
        **made,
        "ring lattice": layouts.ring_lattice(blocks, density=density),
        "block diagonal": layouts.block_diagonal(blocks, density=density),
    }


def row_of(name: str, stats: layouts.LayoutStats) -> dict:
    hops = [f"{100 * share:.3g}" for share in stats.reach[:5]]
    return {
        "layout": name, "blocks": stats.blocks, "density": f"{stats.density:.2%}",
        "in-degree": "{}/{:g}/{}".format(*stats.in_degree),
        "clustering": f"{stats.clustering:.3f}", "mean path": f"{stats.mean_path:.2f}",
        "reach of 1, 2, ... hops, %": " ".join(hops),
        "hops to all": stats.hops_to_all or "never",
    }


def draw(figure, made: dict, measured: dict) -> None:
    figure.set_size_inches(12, 7.5)
    *drawings, curves, empty = figure.subplots(2, 4).flat
    empty.axis("off")
    for axes, (name, layout) in zip(drawings, made.items()):
        stats = measured[name]
        layouts.plot(layout, ax=axes)
        axes.set_title(f"{name}\nclustering {stats.clustering:.2f}, mean path "
                       f"{stats.mean_path:.1f}", fontsize=9)
    for name, stats in measured.items():
        reach = [100 * share for share in stats.reach[:10]]
        reach += reach[-1:] * (10 - len(reach))
        curves.plot(range(1, 11), reach, marker=".", label=name)
    curves.set(xlabel="hops", ylabel="% of blocks reached", title="reach")
    curves.legend(fontsize=7)
    curves.grid(alpha=0.25)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=576,
                        help="blocks a side; the report's 18432 units are 576 of 32 (%(default)s)")
    parser.add_argument("--m", type=int, default=8,
                        help="connections of each new block of the Barabasi-Albert graph")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", default=pathlib.Path("out"))
    options = parser.parse_args()
    made = make_layouts(options.blocks, options.m, options.seed)
    measured = {}
    for i, (name, layout) in enumerate(made.items()):
        measured[name] = layouts.stats(layout)
        output.progress("layouts", i + 1, len(made), name)
    result = {"blocks": options.blocks, "m": options.m, "seed": options.seed, "layouts": [
        {"layout": name, "blocks": s.blocks, "density": s.density, "in_degree": s.in_degree,
         "clustering": s.clustering,
         # JSON knows no infinity.
         "mean_path": s.mean_path if s.mean_path < float("inf") else None,
         "reach": s.reach[:10], "hops_to_all": s.hops_to_all}
        for name, s in measured.items()]}
    output.finish("small_world", [row_of(name, s) for name, s in measured.items()], result,
                  options.out, lambda figure: draw(figure, made, measured))


if __name__ == "__main__":
    output.run(main)
