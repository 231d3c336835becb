"""The GPU benchmark where there is no GPU: options, layouts, the model of limits."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import cuda_binding as cuda  # noqa: E402
import gpu_layouts  # noqa: E402
import gpu_limits  # noqa: E402
import gpu_matmul  # noqa: E402
import gpu_mixture  # noqa: E402
import gpu_profile  # noqa: E402
import gpu_row  # noqa: E402
import gpu_sections  # noqa: E402
import gpu_timing  # noqa: E402
import gpu_traffic  # noqa: E402

FLAT = gpu_limits.Rates(l2=1e12, l2_shared_2=1e12, l2_multicast_2=1e12, l2_multicast_4=1e12,
                        dram=1e12, mma_sync_bf16=1e12, mma_sync_tf32=1e12, ffma=1e12,
                        wgmma_bf16=1e12)


def run(*arguments):
    return subprocess.run([sys.executable, str(BENCHMARKS / "gpu_matmul.py"), *arguments],
                          capture_output=True, text=True)


# Options and cells.


def test_every_section_lists_its_cells_without_a_gpu():
    listed = run(*gpu_sections.GRIDS, "--block-sizes", "64", "--dry-run")
    assert listed.returncode == 0, listed.stderr
    for section in gpu_sections.GRIDS:
        assert f"{section}: " in listed.stdout
    assert "tensorflow" not in listed.stderr.lower()  # a GPU host has none


@pytest.mark.parametrize("arguments, words", [
    (["speed"], "there is no section 'speed'; expected some of uniform, layouts, small, usual, peers"),
    (["--shapes", "8192x8192"], "'8192x8192' is not a shape; expected CxKxN"),
    (["--block-sizes", "24"], "invalid choice: 24"),
])
def test_bad_options_are_named(arguments, words):
    answer = run("--dry-run", *arguments)
    assert answer.returncode != 0
    assert words in answer.stderr


def test_options_replace_a_sections_values():
    options = gpu_matmul.parse(["peers", "--peers", "none", "--axes", "0", "--shapes", "256x512x64"])
    grid = gpu_matmul.grid_of("peers", options)
    assert grid.peers == () and grid.axes == (0,) and grid.shapes == ((256, 512, 64),)
    everyone = gpu_matmul.grid_of("uniform", gpu_matmul.parse(["uniform", "--peers"])).peers
    assert everyone == ("triton", "torch_bsr", "cusparse")
    assert grid.block_sizes == gpu_sections.GRIDS["peers"].block_sizes


def cases(section, **values):
    options = gpu_matmul.parse([section])
    for name, value in values.items():
        setattr(options, name, value)
    return list(gpu_sections.cases(section, gpu_matmul.grid_of(section, options)))


def test_a_structured_layout_is_followed_by_a_random_one_of_as_many_blocks():
    found = cases("layouts", block_sizes=[64], axes=[1])
    names = [case.name for case in found]
    assert names[::2] == ["banded", "diagonal", "clustered", "ba", "ws"]
    for structured, random in zip(found[::2], found[1::2]):
        assert not structured.twin and random.twin and random.name == "uniform"
        assert structured.layout.sum() == random.layout.sum()
        assert structured.layout.mean() == pytest.approx(0.1, rel=0.1)


def test_the_reports_layers_have_the_same_number_of_weights():
    for case in cases("small", block_sizes=[32], shapes=[(2560, 2560, 64), (20480, 20480, 64)]):
        weights = case.layout.sum() * case.block_size**2
        assert weights == pytest.approx(gpu_sections.WEIGHTS, rel=0.1)
        assert case.rotates and case.feature_axis == 0


def test_calls_in_a_row_are_timed_when_clocks_have_settled(monkeypatch):
    """A GPU whose graph of four calls takes 10 ms for a second, and 16 ms from then on."""
    now = [0.0]

    class Graph:
        def replay(self):
            now[0] += 0.016 if now[0] >= 0.99 * gpu_timing.LASTING_SECONDS else 0.010

    def time_of(enqueue):
        begin = now[0]
        enqueue()
        return now[0] - begin

    monkeypatch.setattr(gpu_timing, "capture", lambda functions: (Graph(), len(functions)))
    monkeypatch.setattr(gpu_timing, "time_of", time_of)
    assert gpu_timing.LastingTimer()([None] * 4) == pytest.approx(0.004)


def test_peers_are_not_timed_in_a_row(capsys):
    assert gpu_matmul.parse(["uniform", "--in-a-row"]).in_a_row
    assert gpu_matmul.parse(["peers", "--peers", "none", "--in-a-row"]).in_a_row
    with pytest.raises(SystemExit):
        gpu_matmul.parse(["peers", "--in-a-row"])
    assert "--peers none" in capsys.readouterr().err


def test_shape_without_whole_blocks():
    with pytest.raises(ValueError, match="no whole number of blocks of 64"):
        cases("uniform", shapes=[(96, 128, 64)], block_sizes=[64])


def test_columns_of_a_cluster_share_their_inputs_but_are_scattered():
    layout = gpu_layouts.clustered(256, 0.1)
    distinct = np.unique(layout.T, axis=0)
    assert len(distinct) <= 256 // gpu_layouts.PATCH
    neighbours_alike = (layout[:, 1:] == layout[:, :-1]).all(axis=0).mean()
    assert neighbours_alike < 0.3


# What is printed.


def row(**changes):
    plain = dict(
        section="peers", layout="uniform", shape=(64, 64, 1000), dtype="bfloat16", block_size=8,
        feature_axis=1, density=0.5, actual_density=0.5, blocks=32, operation="fprop",
        seconds=dict(ours=1e-6, dense=3e-6, triton=2e-6), no_answer=dict(cusparse="not supported"),
        limit_seconds=0.5e-6, kernel="sm80", kernel_name="sm80_matmul<bf16,8,256>")
    return {**plain, **changes}


def test_figures_of_a_row():
    assert gpu_row.useful_rate(row(), "ours") == pytest.approx(2 * 32 * 64 * 1000 / 1e-6 * 1e-12)
    assert gpu_row.useful_rate(row(), "cusparse") is None
    assert gpu_row.share(row()) == pytest.approx(0.5)
    for mixture, share in ((0.4e-6, 0.5), (0.8e-6, 0.8)):  # the slower of both is the limit
        assert gpu_row.share(row(seconds=dict(ours=1e-6, mixture=mixture))) == pytest.approx(share)
    assert gpu_matmul.over_best_peer(row()) == pytest.approx(2.0)
    assert gpu_matmul.over_best_peer(row(seconds=dict(ours=1.0, dense=1.0))) is None
    table = gpu_matmul.columns("peers", gpu_sections.GRIDS["peers"])
    titles, line = (gpu_matmul.show(table, r).split() for r in (None, row()))
    assert "cusp" in titles
    assert {"50%", "3.00", "1.50", "no", "2.00", "sm80_matmul<bf16,8,256>"} <= set(line)
    assert gpu_matmul.refusals([row(), row()]) == {"cusparse": {"not supported": 2}}


# The model.


def work(**changes):
    return gpu_limits.Work(**{**dict(operation="fprop", dtype="bfloat16", features=(128, 256),
                                     batch=512, block_size=32, blocks=10, feature_axis=1),
                              **changes})


def tile(kernel, batch_tile=256, columns=1, shared=1, ctas=1, entry_blocks=1, column_blocks=1,
         packed=0):
    return cuda.Tile(kernel, batch_tile, 1, columns, columns // ctas, shared, entry_blocks,
                     column_blocks, packed)


def test_dense_limit_counts_every_product():
    flops = 2.0 * 128 * 256 * 512
    assert gpu_limits.modelled_seconds(FLAT, work(), tile(cuda.DENSE)) == flops / 1e12


def test_memory_limit_leaves_out_cached_activations():
    slow_memory = gpu_limits.Rates(dram=1.0)
    moved = [gpu_limits.modelled_seconds(slow_memory, work(activations_cached=cached),
                                         tile(cuda.DENSE)) for cached in (False, True)]
    assert moved == [2 * (512 * (128 + 256) + 10 * 32**2), 2 * 10 * 32**2]


@pytest.mark.parametrize("operation, features", [("fprop", 96 + 256), ("dx", 128 + 64),
                                                 ("dw", 96 + 64)])
def test_memory_limit_leaves_out_what_no_block_reads(operation, features):
    seconds = gpu_limits.modelled_seconds(gpu_limits.Rates(dram=1.0),
                                          work(operation=operation, used=(96, 64)), tile(cuda.SM80))
    assert seconds == 2 * (512 * features + 10 * 32**2)


def test_column_kernels_read_both_operands_of_every_block():
    slow_l2 = gpu_limits.Rates(l2_shared_2=1.0)
    read = gpu_limits.modelled_seconds(slow_l2, work(), tile(cuda.SM80))
    assert read == 10 * 2 * (256 * 32 + 32**2) * 2  # blocks, batch tiles, bytes


def test_kernels_of_small_batches_read_x_for_every_cell_of_a_large_block():
    slow_l2 = gpu_limits.Rates(l2_shared_2=1.0)
    small, large = work(operation="dw"), work(operation="dw", block_size=128)
    read = [gpu_limits.modelled_seconds(slow_l2, each, tile(cuda.SM80_SMALL)) for each in (small, large)]
    assert read == [10 * 512 * 32 * 2, 16 * 10 * 512 * 32 * 2]
    cells = tile(cuda.SM90_STREAM, batch_tile=64)
    cells.block_cells = 4
    streamed = gpu_limits.modelled_seconds(slow_l2, work(block_size=128), cells)
    assert streamed == 10 * (4 * 512 * 128 + 8 * 128**2) * 2


def test_union_kernels_read_x_once_an_entry_and_pad_to_shared_columns():
    entries = np.int32([[0, 1, 0, -1, 1, -1, -1, -1], [1, 1, 2, 3, -1, -1, -1, -1]])
    four = tile(cuda.SM90, columns=4, shared=2)
    slow_l2, slow_wgmma = gpu_limits.Rates(l2=1.0), gpu_limits.Rates(wgmma_bf16=1.0)
    three = work(blocks=4)
    read = gpu_limits.modelled_seconds(slow_l2, three, four, entries=entries)
    assert read == (2 * 512 * 32 + 4 * 32**2 * 2) * 2
    multiplied = gpu_limits.modelled_seconds(slow_wgmma, three, four, entries=entries)
    assert multiplied == 2.0 * 3 * 32 * 64 * 512  # of four pairs of columns one has no block
    tf32 = gpu_limits.modelled_seconds(slow_wgmma, work(blocks=4, dtype="tf32"), four,
                                       entries=entries)
    assert tf32 == 2 * multiplied


def test_clusters_read_x_once_and_take_it_often():
    # Both CTAs take input block 0, which the second sends; only the first takes another.
    entries = np.int32([[0, 0, 0, -1, 0, 3, 1, 2], [1, 1, 3, -1, -1, 0, -1, -1]])
    pair = tile(cuda.SM90, columns=4, shared=2, ctas=2)
    four = work(blocks=4)
    read = gpu_limits.modelled_seconds(gpu_limits.Rates(l2=1.0), four, pair, entries=entries)
    assert read == (2 * 512 * 32 + 4 * 32**2 * 2) * 2
    taken = gpu_limits.modelled_seconds(gpu_limits.Rates(l2_multicast_2=1.0), four, pair,
                                        entries=entries)
    assert taken == (3 * 512 * 32 + 4 * 32**2 * 2) * 2


def test_packed_weights_are_squares_and_entries_several_blocks():
    # Blocks of 8 with features last: entries of 4 of them, squares of 2 x 2. Of each CTA's 8 columns the
    # first 4 share a product, and the others. Bits are by 16 inputs and then column.
    one = np.int32([[0, 1, 0, 0b00000000_00010011], [2, 1, 3, 0b00000001_00000001]])
    packed = tile(cuda.SM90, columns=8, shared=4, entry_blocks=4, column_blocks=2, packed=1)
    changes = work(blocks=10, block_size=8)
    multiplied = gpu_limits.modelled_seconds(gpu_limits.Rates(wgmma_bf16=1.0), changes, packed,
                                             entries=one)
    assert multiplied == 2.0 * 4 * 16 * 64 * 512
    read = gpu_limits.modelled_seconds(gpu_limits.Rates(l2=1.0), changes, packed, entries=one)
    assert read == (2 * 512 * 32 + 5 * 16**2 * 2) * 2  # entries of x; squares by batch tiles


def test_sweeps_read_boxes_once_for_an_item_and_operands_from_shared_memory():
    # Two stages of two CTAs: 3 boxes and 1; the blocks are in the work.
    stage = np.zeros((2, 2, cuda.SWEEP_STAGE_WORDS), np.int32)
    stage[0, :, 1], stage[1, :, 1] = 9 | 3 << 16, 9 | 1 << 16
    entries = stage.reshape(2, -1)
    pair = tile(cuda.SM90_SWEEP, batch_tile=64, columns=64, ctas=2, packed=1)
    sixteen = work(block_size=16)

    def seconds(**rates):
        return gpu_limits.modelled_seconds(gpu_limits.Rates(**rates), sixteen, pair, entries=entries)

    box, weights = 64 * 512 * 2, 10 * 8 * 16**2 * 2
    assert seconds(l2=1.0) == 4 * box + weights
    assert seconds(l2_multicast_2=1.0) == 8 * box + weights
    # The copies write there, too.
    assert seconds(shared=1.0) == 10 * 512 * 16 * 2 + weights + 8 * box + weights
    assert seconds(mma_sync_bf16=1.0) == sixteen.flops


def test_streams_copy_activations_in_rows():
    rates = gpu_limits.Rates(tma_rows_32=1.0)

    def rows(batch_tile, **changes):
        return gpu_limits.modelled_seconds(rates, work(**changes),
                                           tile(cuda.SM90_STREAM, batch_tile=batch_tile))

    assert rows(32, batch=30, block_size=16) == 10 * 30
    assert rows(64, batch=100, block_size=16) < 1  # turned round before
    assert rows(16, batch=8, feature_axis=0) == 10 * 32
    assert rows(64, batch=100, feature_axis=0) < 1


def test_tiles_of_dw_read_the_chunks_that_their_ctas_share_once():
    slow_l2 = gpu_limits.Rates(l2=1.0, l2_multicast_2=2.0)
    items = np.array([[2, 1, 0, 1, 5], [2, 0, 0, 1, -1]])
    pair = cuda.Tile(kernel=cuda.SM90_DW_TILES, batch_tile=32, columns=384, cta_columns=192,
                     chunk_blocks=4, chunks=28)
    seconds = gpu_limits.modelled_seconds(slow_l2, work(operation="dw", block_size=16), pair,
                                          entries=items)
    assert seconds == max(4 / 2 + 1, (4 + 1) / 2) * 64 * 512 * 2


def test_tiles_of_dw_write_chunks_to_shared_memory_and_read_an_operand_of_every_cell():
    slow_shared = gpu_limits.Rates(shared=1.0)
    items = np.array([[2, 1, 0, 1, 5], [2, 0, 0, 1, -1]])
    for cells in (1, 2):
        pair = cuda.Tile(kernel=cuda.SM90_DW_TILES, batch_tile=32, columns=384, cta_columns=192,
                         block_cells=cells, chunk_blocks=4, chunks=28)
        seconds = gpu_limits.modelled_seconds(slow_shared, work(operation="dw", block_size=16), pair,
                                              entries=items)
        assert seconds == (10 * cells * 16 + (4 + 1) * 64) * 512 * 2


def test_hopper_dw_copies_rows_of_x_by_block_and_of_dy_by_item():
    slow_rows = gpu_limits.Rates(tma_rows_32=1.0)
    seconds = gpu_limits.modelled_seconds(slow_rows, work(operation="dw", block_size=16),
                                          tile(cuda.SM90, batch_tile=64), num_items=3)
    assert seconds == (10 + 3) * 512


# Mixtures.

MIXED = gpu_traffic.Traffic(flops=110e9, padding=27e9, operands=0, read=1009e6, delivered=1290e6, fetched=148e6, stored=134e6)


def test_a_mixture_has_as_much_to_do_as_the_product():
    ctas, piece = 132, gpu_mixture.PIECE
    mixture = gpu_mixture.mixture_of(MIXED, "bfloat16", ctas)
    assert mixture.products % gpu_mixture.GROUP == 0
    assert mixture.products * 2 * ctas * 2 * 64 * 256 * 16 == pytest.approx(MIXED.flops, rel=0.02)
    assert gpu_mixture.mixture_of(MIXED, "tf32", ctas).products == pytest.approx(2 * mixture.products, abs=16)
    assert mixture.padding / mixture.products == pytest.approx(MIXED.padding / MIXED.flops, rel=0.01)
    of_all = ctas * piece
    assert (mixture.own + mixture.shared) * of_all == pytest.approx(MIXED.delivered, rel=0.01)
    assert (mixture.own + mixture.shared / 2) * of_all == pytest.approx(MIXED.read, rel=0.01)
    read_of_received = (mixture.own + mixture.shared / 2) / (mixture.own + mixture.shared)
    assert mixture.fresh * read_of_received * of_all == pytest.approx(MIXED.fetched, rel=0.02)
    assert mixture.stored * of_all == pytest.approx(MIXED.stored, rel=0.02)


def test_a_mixture_of_little_fills_the_ring_and_writes_no_more_than_it_receives():
    little = gpu_mixture.mixture_of(gpu_traffic.Traffic(1e6, 0, 0, 1e3, 1e3, 1e3, 134e6), "bfloat16", 132)
    assert little.products == gpu_mixture.GROUP and little.fresh == 0
    assert little.own + little.shared == little.stored > gpu_mixture.RING
    none = gpu_mixture.mixture_of(gpu_traffic.Traffic(1e6, 0, 0, 1e3, 1e3, 1e3, 0), "bfloat16", 132)
    assert none.own + none.shared == gpu_mixture.RING


def test_products_by_mma_sync_and_other_kernels_have_no_mixture():
    by_mma = gpu_traffic.Traffic(110e9, 0, 1e9, 1009e6, 1290e6, 148e6, 134e6)
    assert gpu_mixture.mixture_of(by_mma, "bfloat16", 132) is None
    assert gpu_traffic.traffic_of(work(), tile(cuda.SM80)) is None


@pytest.mark.parametrize("operation, fetched, stored", [
    ("fprop", 96 * 512 * 2 + 10 * 32**2 * 2, 256 * 512 * 2), ("dw", (96 + 64) * 512 * 2, 10 * 32**2 * 2)])
def test_traffic_through_memory_is_what_is_used_once(operation, fetched, stored):
    entries = np.int32([[0, 1, 0, -1, 1, -1, -1, -1]])
    traffic = gpu_traffic.traffic_of(work(operation=operation, used=(96, 64)), tile(cuda.SM90, columns=4, shared=2),
                                     num_items=3, entries=entries)
    assert (traffic.fetched, traffic.stored) == (fetched, stored)
    cached = gpu_traffic.traffic_of(work(operation=operation, activations_cached=True),
                                    tile(cuda.SM90, columns=4, shared=2), num_items=3, entries=entries)
    assert cached.fetched + cached.stored == 10 * 32**2 * 2


def test_picture_shows_the_newest_run_of_a_cell():
    pytest.importorskip("matplotlib")  # an optional extra
    import gpu_matmul_plot

    def result(device, **seconds_of_density):
        rows = [{"section": "uniform", "shape": [8, 8, 8], "dtype": "bfloat16", "block_size": 8,
                 "feature_axis": 1, "operation": "dw", "density": density, "seconds": seconds}
                for density, seconds in seconds_of_density.items()]
        return {"device": device, "rows": rows}

    found = gpu_matmul_plot.newest_rows([result("H100", half=1, all=2), result("H100", half=3)])
    assert {row["density"]: row["seconds"] for row in found} == {"half": 3, "all": 2}
    with pytest.raises(SystemExit, match="same device; got H100 and H200"):
        gpu_matmul_plot.newest_rows([result("H100", half=1), result("H200", half=3)])


# Profiles of steps.


def test_a_moment_counts_for_the_kernel_that_ends_first():
    waits_for_the_one_before = (40, 140, "b")
    inside_another = (210, 220, "c")
    events = [waits_for_the_one_before, (0, 100, "a"), (200, 250, "a"), inside_another]
    assert list(gpu_profile.time_added(events).items()) == [("a", 140), ("b", 40), ("c", 10)]


def test_profiles_name_kernels_without_their_arguments():
    space = gpu_profile.xplane_pb2.XSpace()
    plane = space.planes.add(name="/device:GPU:0")
    names = ("void bsparse::(anonymous namespace)::pack<8, true>(bsparse::Pack)", "MemcpyD2H")
    for number, name in enumerate(names):
        plane.event_metadata[number].name = name
    for name in ("Stream #13(Compute)", "XLA Ops"):  # the second line repeats the first
        line = plane.lines.add(name=name, timestamp_ns=5)
        for number in range(len(names)):
            line.events.add(metadata_id=number, offset_ps=10 * number, duration_ps=7)
    assert list(gpu_profile.events([space])) == [(5000, 5007, "bsparse::pack"), (5010, 5017, "MemcpyD2H")]
