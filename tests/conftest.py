"""What every test relies on."""

import os
import sys

import pytest

pytest.register_assert_rewrite("cuda_checks", "pointwise_checks")

# Some tests start processes of their own, which need a share of the GPU's memory.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@pytest.fixture(scope="session", autouse=True)
def exact_float32():
    """On a GPU TensorFlow rounds the factors of float32 products to TF32 unless told not to.

    Tests compare float32 results with float32's accuracy; one about TF32 switches it on itself.
    """
    tensorflow = sys.modules.get("tensorflow")  # Tests of layouts do without it.
    if tensorflow is not None:
        tensorflow.config.experimental.enable_tensor_float_32_execution(False)


@pytest.fixture(scope="module")
def kernels():
    """The CUDA kernels through their C API."""
    import cuda_binding

    return cuda_binding.Kernels()


@pytest.fixture(scope="module")
def api():
    """The same, as bare functions."""
    import cuda_binding

    return cuda_binding.load_api()
