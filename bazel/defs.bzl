"""Every rule and constant that BUILD files use.

Newer Bazels keep the C++ rules outside themselves; then this file loads them from there, and no
BUILD file changes.
"""

load("@local_config_cuda//:defs.bzl", _CUDA_ENABLED = "CUDA_ENABLED", _NVCC = "NVCC")
load("@local_config_tf//:defs.bzl", _TF_COPTS = "TF_COPTS", _TF_VERSION = "TF_VERSION")

CUDA_ENABLED = _CUDA_ENABLED
TF_COPTS = _TF_COPTS
TF_VERSION = _TF_VERSION

_WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-sign-compare"]

def cc_library(name, copts = [], **kwargs):
    native.cc_library(name = name, copts = _WARNINGS + copts, linkstatic = True, **kwargs)

def cc_binary(name, copts = [], **kwargs):
    native.cc_binary(name = name, copts = _WARNINGS + copts, **kwargs)

def cc_test(name, copts = [], deps = [], **kwargs):
    """A GoogleTest."""
    native.cc_test(
        name = name,
        copts = _WARNINGS + copts,
        linkstatic = True,
        deps = deps + ["@googletest//:gtest_main"],
        **kwargs
    )

_C_API_ONLY = "//bazel:c_api_only.lds"

def cc_shared_library(name, libraries = [], linkopts = [], c_api_only = False, **kwargs):
    """A shared library without undefined symbols.

    Args:
      name: the file's name; also its soname, so that others link to it by that and not by path.
      libraries: labels of shared libraries to link to. They are named by their soname and found
        because they are loaded already or lie in the same directory.
      linkopts: further options of the linker.
      c_api_only: exports the names that begin with bsparse_ and nothing else.
      **kwargs: as for cc_binary.
    """
    if c_api_only:
        linkopts = linkopts + ["-Wl,--version-script=$(execpath %s)" % _C_API_ONLY]
    native.cc_binary(
        name = name,
        linkshared = True,
        linkopts = [
            "-Wl,-z,defs",
            "-Wl,-soname," + name,
            "-Wl,-rpath,$$ORIGIN",
            "-Wl,--as-needed",
        ] + linkopts + ["$(execpath %s)" % library for library in libraries],
        additional_linker_inputs = libraries + ([_C_API_ONLY] if c_api_only else []),
        **kwargs
    )

def write_file(name, out, lines):
    """A small text file of `lines`, which must not hold an apostrophe."""
    native.genrule(
        name = name,
        outs = [out],
        cmd = "printf '%s\\n' " + " ".join(["'%s'" % line for line in lines]) + " > $@",
    )

def tf_library(name, copts = [], deps = [], **kwargs):
    """A cc_library of code that includes TensorFlow's headers."""
    cc_library(
        name = name,
        copts = TF_COPTS + copts,
        deps = deps + ["@local_config_tf//:headers"],
        alwayslink = True,  # ops and kernels register themselves; nobody calls them by name
        **kwargs
    )

_NVCC_FLAGS = [
    "-O3",
    "-std=c++17",
    "-DNDEBUG",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall",
]

# Machine code for the GPUs measured, PTX for those to come.
_ARCHITECTURES = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
]

# The oldest GPU with the instructions used, and by PTX all after it.
_OLDEST = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_80,code=compute_80",
]

# Instructions that only this one GPU has.
HOPPER = ["-gencode=arch=compute_90a,code=sm_90a"]

def cuda_object(name, src, hdrs = [], copts = [], architectures = []):
    """Compiles one .cu file to <name>.pic.o; unless told otherwise those of sm90/ for Hopper alone."""
    if not architectures:
        architectures = HOPPER if src.startswith("sm90/") else _ARCHITECTURES
    native.genrule(
        name = name,
        srcs = [src] + hdrs,
        outs = [name + ".pic.o"],
        cmd = " ".join([_NVCC, "-I."] + _NVCC_FLAGS + architectures + copts + ["-c $(execpath %s) -o $@" % src]),
        message = "nvcc " + name,
    )

def cuda_binary(name, srcs, hdrs = []):
    """A program that needs nothing but the driver; no target at all in a CPU-only build.

    Args:
      name: the file's name.
      srcs: .cu files, of other packages by their labels. They are compiled for sm_90a, and for every
        other GPU since Ampere.
      hdrs: every header they include.
    """
    if not CUDA_ENABLED:
        return
    objects = []
    for src in srcs:
        object = name + "_" + src.split(":")[-1][:-len(".cu")] + "_object"
        cuda_object(object, src, hdrs, architectures = _OLDEST + HOPPER)
        objects.append(":" + object)
    native.cc_binary(
        name = name,
        srcs = objects,
        deps = ["@local_config_cuda//:cudart_static"],
    )

def cuda_shared_library(name, srcs, hdrs = [], copts = [], variants = {}, architectures = []):
    """A shared library of CUDA code and nothing else; no target at all in a CPU-only build.

    Linked alone: libtensorflow_framework.so.2 exports the CUDA runtime as stubs, which would take
    over our kernels' launches if it came before the static runtime on the link line.

    Args:
      name: the file's name.
      srcs: .cu files. Each is compiled once for each of its variants, side by side.
      hdrs: every header they include; nvcc's actions have no include scanner.
      copts: nvcc options for all.
      variants: {source: {variant: [nvcc options]}}; a source that is not named is compiled once.
      architectures: nvcc options, as of cuda_object.
    """
    if not CUDA_ENABLED:
        return
    objects = []
    for src in srcs:
        stem = src[:-len(".cu")].replace("/", "_")
        for variant, options in variants.get(src, {"": []}).items():
            object = stem + ("_" + variant if variant else "")
            cuda_object(object, src, hdrs, copts + options, architectures)
            objects.append(":" + object)
    cc_shared_library(
        name = name,
        srcs = objects,
        c_api_only = True,
        linkopts = ["-Wl,--exclude-libs,ALL"],
        deps = ["@local_config_cuda//:cudart_static"],
    )
