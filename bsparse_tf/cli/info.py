"""Show versions, libraries, devices and the kernels that would run; say what is missing.

The exit code is 0 whether or not optional parts (XLA, CUDA, matplotlib) are there.
"""

import argparse
import ctypes
import importlib.metadata
import json
import platform

OPTIONAL_PACKAGES = {"matplotlib": "plots: pip install matplotlib",
                     "scipy": "a peer in the benchmark: pip install scipy"}
GPU_DTYPES = ("float32", "float16", "bfloat16")  # in the order of the C enumeration bsparse_dtype


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--batch", type=int, default=192, metavar="N",
                        help="batch that GPU kernels are chosen for (default: 192)")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def collect(batch: int) -> dict:
    """Everything `info` shows, as plain JSON values."""
    import keras
    import tensorflow as tf

    import bsparse_tf
    from bsparse_tf import native
    from bsparse_tf.benchmark.machine import describe_machine

    return {
        "bsparse_tf": bsparse_tf.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "packages": {name: _version(name)
                     for name in ("numpy", "networkx", *OPTIONAL_PACKAGES)},
        "ops_library": str(native.ops_library_path()),
        "xla": native.xla_status() or "loaded",
        "cuda": native.cuda_status() or "found",
        "machine": describe_machine(),
        "cpu_target": _cpu_target(),
        "gpu_kernels": _gpu_kernels(batch),
    }


def _cpu_target() -> str:
    """The instruction set that the CPU kernels chose on this machine."""
    from bsparse_tf import native

    function = ctypes.CDLL(native.ops_library_path()).bsparse_cpu_target
    function.restype = ctypes.c_char_p
    return function().decode()


def _gpu_kernels(batch: int) -> dict[str, str]:
    """The kernel for every block size and dtype; empty without a GPU or its library."""
    import tensorflow as tf

    from bsparse_tf import native
    from bsparse_tf.argument_checks import BLOCK_SIZES

    if native.cuda_status() or not tf.config.list_physical_devices("GPU"):
        return {}
    function = ctypes.CDLL(native.ops_library_path()).bsparse_gpu_kernel
    function.restype = ctypes.c_char_p
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    kernels = {}
    for code, dtype in enumerate(GPU_DTYPES):
        for block_size in BLOCK_SIZES:
            name = function(code, block_size, 1, ctypes.c_int64(batch), int(tf32))
            kernels[f"{dtype}, block {block_size}"] = name.decode() if name else "none"
    return kernels


def _missing(facts: dict) -> list[str]:
    """One line for each part that is not there: what it would give, and how to get it."""
    lines = []
    if facts["xla"] != "loaded":
        lines.append(f"XLA (jit_compile=True) will not work with these ops: {facts['xla']}")
    if facts["machine"]["gpus"] and facts["cuda"] != "found":
        lines.append(f"TensorFlow sees a GPU, but there are no kernels for it: {facts['cuda']}. "
                     "Build with BSPARSE_CUDA=1 make wheel.")
    elif not facts["machine"]["gpus"] and facts["cuda"] == "found":
        lines.append("the CUDA kernels are here, but TensorFlow sees no GPU: check the driver, "
                     "or install tensorflow[and-cuda]")
    lines += [f"{name} is not installed ({purpose})"
              for name, purpose in OPTIONAL_PACKAGES.items() if not facts["packages"][name]]
    return lines


def run(args: argparse.Namespace) -> int:
    facts = collect(args.batch)
    facts["missing"] = _missing(facts)
    if args.json:
        print(json.dumps(facts))
        return 0
    machine, packages = facts["machine"], facts["packages"]
    print(f"bsparse_tf    {facts['bsparse_tf']}")
    print(f"TensorFlow    {facts['tensorflow']}, Keras {facts['keras']}, Python {facts['python']}")
    print("packages      " + ", ".join(f"{name} {version or 'not installed'}"
                                       for name, version in packages.items()))
    print(f"op library    {facts['ops_library']}")
    print(f"XLA kernels   {facts['xla']}")
    print(f"CUDA kernels  {facts['cuda']}")
    print(f"CPU           {machine['cpu']}, {machine['cores']} cores, "
          f"{machine['intra_op_threads']} intra-op threads")
    print(f"CPU kernels   {facts['cpu_target']}; every dtype and block size")
    print(f"GPUs          {', '.join(machine['gpus']) or 'none visible to TensorFlow'}")
    if facts["gpu_kernels"]:
        print(f"\nKernels on the GPU at batch {args.batch}, features last:")
        for where, name in facts["gpu_kernels"].items():
            print(f"  {where:<20} {name}")
    print("\nMissing: " + ("nothing" if not facts["missing"] else
                           "\n  ".join(["", *facts["missing"]]).rstrip()))
    return 0
