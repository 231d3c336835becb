"""Loads the native libraries that lie in this directory.

`raw` is the module of generated op wrappers; `bsparse_tf.ops` is what users call.
"""

import os
import types

import tensorflow as tf

from bsparse_tf import version

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
_OPS_LIBRARY = os.path.join(_DIRECTORY, "_bsparse_ops.so")
_XLA_LIBRARY = os.path.join(_DIRECTORY, "_bsparse_xla.so")
_CUDA_LIBRARY = os.path.join(_DIRECTORY, "libbsparse_cuda.so")

_HOW_TO_GET_IT = (
    "In a source tree, `make build` builds it for the TensorFlow in .venv; otherwise install a "
    f"wheel of bsparse_tf into an environment with TensorFlow {version.SUPPORTED_TENSORFLOW}."
)


def _minor(tensorflow_version: str) -> str:
    """"2.21.0" -> "2.21": what the C++ interface of TensorFlow is tied to."""
    return ".".join(tensorflow_version.split(".")[:2])


def _built_for() -> str:
    """The TensorFlow version that the libraries were built for.

    Raises:
      ImportError: the build has not run.
    """
    try:
        from bsparse_tf import _build_info
    except ImportError as error:
        raise ImportError(
            f"bsparse_tf's op library {_OPS_LIBRARY} is not built (this bsparse_tf is for "
            f"TensorFlow {version.SUPPORTED_TENSORFLOW}; installed is TensorFlow "
            f"{tf.__version__}). {_HOW_TO_GET_IT}"
        ) from error
    return _build_info.TF_VERSION


def _load_ops() -> types.ModuleType:
    """Loads _bsparse_ops.so.

    Raises:
      ImportError: it is missing, was built for another TensorFlow, or does not load.
    """
    built_for = _built_for()
    versions = f"built for TensorFlow {built_for}; installed is TensorFlow {tf.__version__}"
    if not os.path.exists(_OPS_LIBRARY):
        raise ImportError(
            f"bsparse_tf's op library {_OPS_LIBRARY} is missing ({versions}). {_HOW_TO_GET_IT}"
        )
    # Checked before loading: with a wrong version the loader only names a mangled symbol.
    if _minor(built_for) != _minor(tf.__version__):
        raise ImportError(
            f"bsparse_tf's op library {_OPS_LIBRARY} does not fit: it was {versions}. Either "
            f"`pip install 'tensorflow=={_minor(built_for)}.*'`, or rebuild. {_HOW_TO_GET_IT}"
        )
    try:
        return tf.load_op_library(_OPS_LIBRARY)
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        raise ImportError(
            f"bsparse_tf's op library {_OPS_LIBRARY} does not load ({versions}): {error}. "
            f"{_HOW_TO_GET_IT}"
        ) from error


def _load_xla() -> str | None:
    """Loads _bsparse_xla.so; returns None, or why `jit_compile=True` will not work."""
    if not os.path.exists(_XLA_LIBRARY):
        return f"{_XLA_LIBRARY} is missing. {_HOW_TO_GET_IT}"
    try:
        tf.load_library(_XLA_LIBRARY)
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        return f"{_XLA_LIBRARY} does not load: {error}"
    return None


raw = _load_ops()
_xla_status = _load_xla()


def ops_library_path() -> str:
    """The op library's path: `tf.load_op_library` of it is enough to load a SavedModel."""
    return _OPS_LIBRARY


def xla_status() -> str | None:
    """None if the XLA kernels are loaded, else a sentence that says why not."""
    return _xla_status


def cuda_status() -> str | None:
    """None if the CUDA kernels lie beside the op library, else a sentence that says why not."""
    if os.path.exists(_CUDA_LIBRARY):
        return None
    return (
        f"{_CUDA_LIBRARY} is missing: this is a CPU-only build. `BSPARSE_CUDA=1 make build` "
        "builds it where a CUDA compiler is found."
    )
