"""Block-sparse weights for TensorFlow: layouts, products, Keras layers, kernels for CPU and GPU.

Importing this package registers the ops, so that SavedModels that use them load.
"""

from bsparse_tf import native  # Loads the op library, or says why it cannot be loaded.
from bsparse_tf import gradients  # Registers the gradients; without them nothing trains.
from bsparse_tf import initializers, keras, layouts, ops, plan
from bsparse_tf.feature_axis import to_features_first, to_features_last
from bsparse_tf.matmul import BlocksparseMatMul
from bsparse_tf.native import ops_library_path
from bsparse_tf.version import __version__

__all__ = [
    "BlocksparseMatMul",
    "__version__",
    "gradients",
    "initializers",
    "keras",
    "layouts",
    "native",
    "ops",
    "ops_library_path",
    "plan",
    "to_features_first",
    "to_features_last",
]
