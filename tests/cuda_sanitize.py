"""Small products of every kernel for compute-sanitizer, on device memory of their own.

PyTorch's kernels take the sanitizer longer than ours, so this needs NumPy alone:

    compute-sanitizer --tool memcheck python tests/cuda_sanitize.py --block-size 16
    compute-sanitizer --tool racecheck python tests/cuda_sanitize.py --block-size 16

What racecheck names and is no race, and which products memcheck has hung on: docs/kernel-notes.md.
"""

import argparse
import ctypes
import itertools
import sys
import types

import cuda_binding as cuda
import numpy as np

LAYOUTS = {8: (19, 23), 16: (13, 11), 32: (9, 11), 64: (5, 6), 128: (3, 4)}
DENSITY = 0.35
# So many outputs that TF32 turns x with features first round.
WIDE_OUTPUTS = 5120


class Driver:
    """The CUDA driver's calls that this needs, in the runtime's own context."""

    def __init__(self):
        self._library = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self("cuInit", 0)
        self("cuDeviceGet", ctypes.byref(device), 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self("cuCtxSetCurrent", context)

    def __call__(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} failed with status {status}")


class Array:
    """A NumPy array's copy on the device: as much of a tensor as cuda_binding asks for."""

    def __init__(self, driver, array):
        self._driver, self._address = driver, ctypes.c_uint64()
        self._host = np.ascontiguousarray(array)
        self.shape, self.dtype = array.shape, array.dtype.name
        driver("cuMemAlloc_v2", ctypes.byref(self._address), ctypes.c_size_t(max(1, array.nbytes)))
        driver("cuMemcpyHtoD_v2", self._address, self._host.ctypes.data_as(ctypes.c_void_p),
               ctypes.c_size_t(array.nbytes))

    def __del__(self):
        self._driver("cuMemFree_v2", self._address)

    def data_ptr(self):
        return self._address.value

    def numpy(self):
        result = np.empty_like(self._host)
        self._driver("cuMemcpyDtoH_v2", result.ctypes.data_as(ctypes.c_void_p), self._address,
                     ctypes.c_size_t(result.nbytes))
        return result


def stand_in_for_torch(driver):
    """What cuda_binding calls of PyTorch. Everything goes to the default stream."""
    return types.SimpleNamespace(
        float32="float32", uint8="uint8", is_tensor=lambda value: isinstance(value, Array),
        empty=lambda size, dtype, device: Array(driver, np.zeros(size, dtype)),
        tensor=lambda array, device: Array(driver, array),
        cuda=types.SimpleNamespace(
            current_stream=lambda: types.SimpleNamespace(cuda_stream=None)))


def stored_as(values, mode):
    """Float32 numbers with few bits in the mode's elements: bfloat16 has no NumPy type."""
    values = values.astype(np.float32)
    if mode == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16) if mode == "float16" else values


def read_as(array, mode):
    if mode == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


class Products:
    """Products of one layout whose results are small whole numbers, exact in every mode."""

    def __init__(self, driver, kernels, planner, mode, block_size, feature_axis, batch, wide):
        self.driver, self.kernels, self.planner = driver, kernels, planner
        self.mode, self.block_size, self.feature_axis = mode, block_size, feature_axis
        self.batch = batch
        self.random = np.random.default_rng(0)
        blocks = (2, WIDE_OUTPUTS // block_size) if wide else LAYOUTS[block_size]
        self.layout = self.random.random(blocks) < DENSITY
        self.layout[0, 0] = True
        self.coords = np.argwhere(self.layout)
        # One weight in eight is not 0: sums stay below 256, which bfloat16 holds exactly.
        self.w = self.numbers(len(self.coords), block_size, block_size)
        self.w *= self.random.random(self.w.shape) < 0.125

    def numbers(self, *shape):
        return self.random.integers(-1, 2, shape).astype(np.float32)

    def array(self, values):
        return Array(self.driver, stored_as(values, self.mode))

    def activations(self, blocks):
        features = blocks * self.block_size
        values = self.numbers(self.batch, features)
        return values, self.array(values if self.feature_axis == 1 else values.T)

    def dense(self):
        bs, dense = self.block_size, np.zeros(np.multiply(self.layout.shape, self.block_size))
        for block, (c, k) in zip(self.w, self.coords):
            dense[c * bs:(c + 1) * bs, k * bs:(k + 1) * bs] = block
        return dense

    def check_matmul(self, transpose, ctas):
        tile = self.kernels.tile(self.mode, self.block_size, self.batch,
                                 feature_axis=self.feature_axis)
        if tile.kernel == cuda.SM90:
            tile.columns, tile.ctas_per_sm = ctas * tile.cta_columns, 1
        elif ctas > 1:
            return 0
        return self.check_tile(tile, transpose)

    def check_sweep(self, transpose, ctas):
        blocks = (8192 // self.block_size,) * 2
        run = 0
        for density in (0.1, 0.01):  # at low ones tiles are wide, of two CTAs
            tile = self.kernels.tile(self.mode, self.block_size, 8192, feature_axis=self.feature_axis,
                                     blocks=blocks, density=density, union_density=1.0)
            if tile.kernel != cuda.SM90_SWEEP or ctas > 2 or (tile.batch_tile == 32 and ctas == 1):
                continue
            tile.columns = ctas * tile.cta_columns
            run += self.check_tile(tile, transpose)
        return run

    def check_tile(self, tile, transpose):
        in_blocks, out_blocks = self.layout.shape[::-1 if transpose else 1]
        values, x = self.activations(in_blocks)
        truth = values @ (self.dense().T if transpose else self.dense())
        y = self.array(np.full(truth.shape[::1 if self.feature_axis == 1 else -1], np.nan))
        plan = self.planner.matmul(self.layout, self.batch, self.kernels.device(), tile, transpose)
        self.kernels.prepare_matmul(self.mode, self.block_size, self.feature_axis,
                                    self.layout.shape, plan, x, self.array(self.w), y,
                                    transpose)()
        result = read_as(y.numpy(), self.mode)
        np.testing.assert_array_equal(result if self.feature_axis == 1 else result.T, truth)
        return 1

    def check_dw(self, ctas):
        tile = self.kernels.tile(self.mode, self.block_size, self.batch, is_dw=True,
                                 feature_axis=self.feature_axis)
        if tile.kernel == cuda.SM90_DW_TILES:
            tile.columns = ctas * tile.cta_columns
        elif ctas > 1:
            return 0
        return self.check_dw_tile(tile)

    def check_dw_columns(self):
        """Where tiles are the rule, but not in a large product of few enough blocks."""
        for density in (0.01, 0.05, 0.3):
            tile = self.kernels.tile(self.mode, self.block_size, 8192, is_dw=True,
                                     feature_axis=self.feature_axis,
                                     blocks=(8192 // self.block_size,) * 2, density=density)
            if tile.kernel == cuda.SM90:
                return self.check_dw_tile(tile)
        return 0

    def check_dw_tile(self, tile):
        (x_values, x), (dy_values, dy) = (self.activations(side) for side in self.layout.shape)
        truth, bs = x_values.T @ dy_values, self.block_size
        dw = Array(self.driver, np.full(self.w.shape, np.nan, np.float32))
        plan = self.planner.matmul_dw(self.layout, self.batch, self.kernels.device(), tile)
        self.kernels.prepare_matmul_dw(self.mode, bs, self.feature_axis, self.layout.shape, plan,
                                       x, dy, dw)()
        wanted = [truth[c * bs:(c + 1) * bs, k * bs:(k + 1) * bs] for c, k in self.coords]
        np.testing.assert_array_equal(dw.numpy(), wanted)
        return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="bfloat16", choices=sorted(cuda.DTYPES))
    parser.add_argument("--block-size", type=int, nargs="*", default=sorted(LAYOUTS),
                        choices=sorted(LAYOUTS))
    parser.add_argument("--feature-axis", type=int, nargs="*", default=[0, 1], choices=[0, 1])
    parser.add_argument("--ctas", type=int, nargs="*", default=[1, 2, 4],
                        help="of a cluster, where kernels have some")
    # Kernels of small batches; three batch tiles of 256, the last nearly empty, and more stages than a ring
    # has. Of batches that are a multiple of 64 a tile of x with features first is one copy.
    parser.add_argument("--batch", type=int, nargs="*", default=[32, 200, 520, 576])
    parser.add_argument("--only", choices=["matmul", "sweep", "dw"])
    parser.add_argument("--wide", action="store_true", help=f"layouts of {WIDE_OUTPUTS} outputs")
    args = parser.parse_args()
    driver = Driver()
    cuda.torch = stand_in_for_torch(driver)
    kernels, planner, run = cuda.Kernels(), cuda.Planner(), 0
    for cell in itertools.product(args.block_size, args.feature_axis, args.batch):
        products = Products(driver, kernels, planner, args.mode, *cell, args.wide)
        for ctas in args.ctas:
            for transpose in (False, True):
                if args.only in (None, "matmul"):
                    run += products.check_matmul(transpose, ctas)
                if args.only in (None, "sweep"):
                    run += products.check_sweep(transpose, ctas)
            if args.only in (None, "dw"):
                run += products.check_dw(ctas)
        if args.only in (None, "dw"):
            run += products.check_dw_columns()
    print(f"{run} products of {args.mode} are right")


if __name__ == "__main__":
    sys.exit(main())
