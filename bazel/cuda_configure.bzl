"""@local_config_cuda: the CUDA compiler, if there is one and it should be used.

A compiler is looked for in CUDA_HOME, /usr/local/cuda, PATH, and PyPI's nvidia-cuda-nvcc 13
packages beside TensorFlow. The kernels are built when one is found and a GPU is visible;
BSPARSE_CUDA=1 builds them without a GPU, and demands them; BSPARSE_CUDA=0 leaves them out.
"""

load("//bazel:python.bzl", "run_python")

_PROBE = """
import importlib.util
spec = importlib.util.find_spec("nvidia")
for root in (spec.submodule_search_locations if spec else ()):
    print(root)
"""

def _candidates(ctx):
    """Roots of toolkits, best first: (root, where it was found)."""
    found = []
    if ctx.os.environ.get("CUDA_HOME"):
        found.append((ctx.path(ctx.os.environ["CUDA_HOME"]), "CUDA_HOME"))
    found.append((ctx.path("/usr/local/cuda"), "/usr/local/cuda"))
    nvcc = ctx.which("nvcc")
    if nvcc:
        found.append((nvcc.realpath.dirname.dirname, "PATH"))
    roots, _ = run_python(ctx, _PROBE)
    for root in roots or []:
        if root:
            found.append((ctx.path(root).get_child("cu13"), "PyPI packages"))
    return found

def _first_existing(root, names):
    for name in names:
        path = root
        for part in name.split("/"):
            path = path.get_child(part)
        if path.exists:
            return path
    return None

def _find_toolkit(ctx):
    """A struct(root, nvcc, cudart) or None, and a sentence about what is missing."""
    missing = "no CUDA compiler found"
    for root, origin in _candidates(ctx):
        nvcc = _first_existing(root, ["bin/nvcc"])
        if not nvcc:
            continue
        cudart = _first_existing(root, [
            "lib64/libcudart_static.a",
            "lib/libcudart_static.a",
            "targets/x86_64-linux/lib/libcudart_static.a",
            "targets/sbsa-linux/lib/libcudart_static.a",
        ])
        if cudart and _first_existing(root, ["include/cuda_runtime.h"]):
            return struct(root = root, nvcc = nvcc, cudart = cudart, origin = origin), None
        missing = "%s has nvcc but not the runtime's headers and libcudart_static.a" % root
    return None, missing

def _gpu_is_visible(ctx):
    return ctx.path("/dev/nvidia0").exists or ctx.path("/dev/dxg").exists

_DEFS = """
CUDA_ENABLED = {enabled}
NVCC = "{nvcc}"
"""

_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "cudart_static",
    srcs = ["libcudart_static.a"],
    linkopts = ["-ldl", "-lrt", "-pthread"],
)

exports_files(["status.txt"])
"""

_BUILD_WITHOUT_CUDA = """
exports_files(["status.txt"], visibility = ["//visibility:public"])
"""

def _cuda_configure_impl(ctx):
    wish = ctx.os.environ.get("BSPARSE_CUDA", "")
    if wish not in ["", "0", "1"]:
        fail("\n\nBSPARSE_CUDA is '%s'; expected 1 (build the CUDA kernels) or 0 (do not).\n" % wish)
    toolkit, missing = _find_toolkit(ctx)
    if wish == "1" and not toolkit:
        fail("\n\nBSPARSE_CUDA=1, but %s.\n" % missing)

    if wish == "0":
        reason = "BSPARSE_CUDA=0"
    elif not toolkit:
        reason = missing
    elif wish != "1" and not _gpu_is_visible(ctx):
        reason = "no GPU is visible; BSPARSE_CUDA=1 builds the CUDA kernels all the same"
    else:
        ctx.symlink(toolkit.cudart, "libcudart_static.a")
        ctx.file("BUILD", _BUILD)
        ctx.file("defs.bzl", _DEFS.format(enabled = True, nvcc = toolkit.nvcc))
        ctx.file("status.txt", "CUDA kernels are built with %s.\n" % toolkit.nvcc)
        return
    ctx.file("BUILD", _BUILD_WITHOUT_CUDA)
    ctx.file("defs.bzl", _DEFS.format(enabled = False, nvcc = ""))
    ctx.file("status.txt", "CPU-only build: %s.\n" % reason)

cuda_configure = repository_rule(
    implementation = _cuda_configure_impl,
    environ = ["BSPARSE_CUDA", "CUDA_HOME", "PATH", "PYTHON_BIN_PATH"],
    local = True,
    configure = True,
)
