"""@local_config_tf: the headers and libraries of the TensorFlow that is installed with pip.

TensorFlow is found without importing it, which would take seconds.
"""

load("//bazel:python.bzl", "find_python", "run_python")

_PROBE = """
import importlib.metadata, importlib.util, os
spec = importlib.util.find_spec("tensorflow")
assert spec and spec.origin, "the package tensorflow is not installed"
for name in ("tensorflow", "tensorflow-cpu"):
    try:
        version = importlib.metadata.version(name)
        break
    except importlib.metadata.PackageNotFoundError:
        pass
else:
    raise AssertionError("no distribution called tensorflow or tensorflow-cpu")
print(os.path.dirname(spec.origin))
print(version)
"""

# The wheel also carries headers of CUDA 12.5 and CUTLASS. They must never meet our own CUDA
# toolkit on a command line, and leaving them out makes analysis quicker.
_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "headers",
    hdrs = glob(
        ["include/**"],
        exclude = [
            "include/external/cutlass_archive/**",
            "include/external/cuda_*/**",
            "include/third_party/gpus/**",
            "include/**/*.py",
        ],
    ),
    includes = [
        "include",
        # Needed by the XLA headers, though tf.sysconfig does not name them.
        "include/external/farmhash_archive/src",
        "include/external/highwayhash",
    ],
)

exports_files(["libtensorflow_framework.so.2", "libtensorflow_cc.so.2"])
"""

# TF_COPTS is what tf.sysconfig.get_compile_flags() says for the wheels on PyPI, except -std,
# which .bazelrc sets. Eigen's alignment must be the wheel's own: its aligned maps assert on it.
_DEFS = """
TF_VERSION = "{version}"
TF_COPTS = ["-D_GLIBCXX_USE_CXX11_ABI=1", "-DEIGEN_MAX_ALIGN_BYTES=64"]
"""

def _tf_configure_impl(ctx):
    lines, error = run_python(ctx, _PROBE)
    if error:
        fail("\n\nno TensorFlow for %s; run tools/setup, or set PYTHON_BIN_PATH.\n%s\n" %
             (find_python(ctx), error))
    root, version = lines
    ctx.symlink(root + "/include", "include")
    for library in ["libtensorflow_framework.so.2", "libtensorflow_cc.so.2"]:
        ctx.symlink(root + "/" + library, library)
    ctx.file("BUILD", _BUILD)
    ctx.file("defs.bzl", _DEFS.format(version = version))

tf_configure = repository_rule(
    implementation = _tf_configure_impl,
    environ = ["PYTHON_BIN_PATH"],
    local = True,
    configure = True,
)
