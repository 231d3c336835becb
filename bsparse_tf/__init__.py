"""Block-sparse weights for TensorFlow: layouts, products, Keras layers, kernels for CPU and GPU.

Importing this package registers the ops, so that SavedModels that use them load.
"""

from bsparse_tf import native  # Loads the op library, or says why it cannot be loaded.
from bsparse_tf import gradients  # Registers the gradients; without them nothing trains.
from bsparse_tf import initializers, keras, layouts, ops, plan
from bsparse_tf.feature_axis import to_features_first, to_features_last
from bsparse_tf.layer_normalization import layer_norm
from bsparse_tf.lstm_cell import lstm_gates
from bsparse_tf.matmul import BlocksparseMatMul
from bsparse_tf.native import ops_library_path
from bsparse_tf.sparse_proj import SparseProj
from bsparse_tf.version import __version__
from bsparse_tf.weight_norm import l2_normalize

__all__ = [
    "BlocksparseMatMul",
    "SparseProj",
    "__version__",
    "gradients",
    "initializers",
    "keras",
    "l2_normalize",
    "layer_norm",
    "layouts",
    "lstm_gates",
    "native",
    "ops",
    "ops_library_path",
    "plan",
    "to_features_first",
    "to_features_last",
]
