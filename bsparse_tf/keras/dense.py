"""`BlockSparseDense`: `keras.layers.Dense` whose kernel stores only the blocks of a layout."""

import keras
import numpy as np

from bsparse_tf import argument_checks as checks
from bsparse_tf import initializers, layouts, native
from bsparse_tf.activation_gradient import gelu
from bsparse_tf.keras import layout_argument
from bsparse_tf.matmul import BlocksparseMatMul

# What a dense layer and its block-sparse counterpart have in common. Initializers and the kernel's
# constraint depend on the kernel's shape, and stay behind.
_SHARED_WITH_DENSE = (
    "activation",
    "use_bias",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "bias_constraint",
    "trainable",
)


@keras.saving.register_keras_serializable(package="bsparse_tf")
class BlockSparseDense(keras.layers.Layer):
    """`activation(inputs W + bias)` with a block-sparse W.

    Used as `keras.layers.Dense`. Under the policies mixed_float16 and mixed_bfloat16 the kernel is
    kept in float32, rounded inside the product, and gets float32 gradients. A bias and relu cost
    nothing extra: they are part of the product; so is (exact) gelu, except in training, where
    keeping the sum is cheaper than computing it again for the gradient.

    Args:
      units: number of outputs, a multiple of `block_size`.
      block_size: 8, 16, 32, 64 or 128. Inputs must be a multiple of it, too.
      layout: which blocks exist: a spec such as "ba:m=4,seed=0" (see `bsparse_tf.layouts`), a 0/1
        array [input blocks, output blocks], or None for a Barabási-Albert graph with a number of
        connections that suits the size.
      feature_axis: 1 or -1 for features last, [..., inputs] -> [..., units]; 0 for features first,
        [inputs, ...] -> [units, ...]. `bsparse_tf.to_features_first` and `to_features_last` cross
        over.
      activation: any of Keras's, by name or as a function.
      use_bias: whether to add a bias.
      kernel_initializer, bias_initializer: any of Keras's. Those that depend on fans or on the
        shape of the matrix are replaced by their equivalents in `bsparse_tf.initializers`.
      kernel_regularizer, kernel_constraint: called with the stored blocks,
        [blocks, block_size, block_size]. Element by element (L1, L2, NonNeg) they mean what they
        mean for a dense kernel; a norm along an axis is that of one block.
      bias_regularizer, activity_regularizer, bias_constraint: as for Dense.
      precision: how a GPU multiplies float32 numbers: None (TensorFlow's switch), "float32", "tf32" or
        "tf32x3"; see `bsparse_tf.ops.matmul`.
      **kwargs: name, dtype, trainable: as for any layer.

    Attributes:
      matmul: the BlocksparseMatMul, with layout, coords, density and more; None before `build`.
      kernel: variable [blocks, block_size, block_size]; see `BlocksparseMatMul` for its meaning.
      bias: variable [units], or None.

    Raises:
      ValueError: if units, or later the inputs, are not a multiple of block_size; if the layout
        does not fit them; if the precision is not known.
      RuntimeError: if Keras runs on another backend than TensorFlow.
    """

    def __init__(
        self,
        units,
        block_size=32,
        layout=None,
        feature_axis=1,
        activation=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        precision=None,
        **kwargs,
    ):
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "BlockSparseDense needs Keras's TensorFlow backend (KERAS_BACKEND=tensorflow); "
                f"this process uses {keras.backend.backend()}"
            )
        checks.check_block_size(block_size)
        feature_axis = 1 if feature_axis == -1 else feature_axis
        checks.check_feature_axis(feature_axis)
        checks.precision_name(precision)
        out_blocks = checks.count_blocks("units", units, block_size)
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = int(units)
        self.block_size = int(block_size)
        self.layout = layout_argument.normalise(layout)
        self.feature_axis = int(feature_axis)
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.precision = precision
        if isinstance(self.layout, np.ndarray) and self.layout.shape[1] != out_blocks:
            raise ValueError(
                f"layout has shape {self.layout.shape}, {self.layout.shape[1]} blocks of outputs; "
                f"units={units} make {out_blocks} of block_size={block_size}"
            )
        self.matmul = None
        self.kernel = None
        self.bias = None
        self.input_spec = keras.InputSpec(min_ndim=2)
        self.supports_masking = True
        # Keras compiles a model with XLA by itself if all layers say that they can be.
        self.supports_jit = native.xla_status() is None

    def build(self, input_shape):
        axis = self._keras_axis()
        features = input_shape[axis]
        if features is None:
            raise ValueError(
                f"inputs have shape {tuple(input_shape)}: their features, on axis {axis} "
                f"(feature_axis={self.feature_axis}), must be known when the layer is built"
            )
        name = f"the number of input features (axis {axis} of {tuple(input_shape)})"
        in_blocks = checks.count_blocks(name, features, self.block_size)
        layout = layout_argument.resolve(self.layout, in_blocks, self.units // self.block_size)
        self.matmul = BlocksparseMatMul(layout, self.block_size, self.feature_axis, self.name)
        self.input_spec = keras.InputSpec(min_ndim=2, axes={axis: features})
        self.kernel = self.add_weight(
            name="kernel",
            shape=self.matmul.w_shape,
            initializer=initializers.for_shape(self.kernel_initializer, self.matmul),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            autocast=False,  # The product takes float32 weights, and gives them float32 gradients.
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def call(self, inputs, training=None):
        fused = self._fused_activation(training)
        outputs = self.matmul(
            inputs, self.kernel, bias=self.bias, activation=fused, precision=self.precision
        )
        if fused is not None or self.activation is None:
            return outputs
        if self.activation is keras.activations.gelu:
            return gelu(outputs)
        return self.activation(outputs)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        shape[self._keras_axis()] = self.units
        return tuple(shape)

    def _keras_axis(self):
        return -1 if self.feature_axis == 1 else 0

    def _fused_activation(self, training):
        if self.activation is keras.activations.relu:
            return "relu"
        if self.activation is keras.activations.gelu and not training:
            return "gelu"
        return None

    # Saving.

    def get_config(self):
        config = {
            "units": self.units,
            "block_size": self.block_size,
            "layout": layout_argument.to_config(self.layout),
            "feature_axis": self.feature_axis,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "precision": self.precision,
        }
        return {**super().get_config(), **config}

    def get_build_config(self):
        config = super().get_build_config()
        if config and self.matmul is not None:
            config["layout_digest"] = layouts.digest(self.matmul.layout)
        return config

    def build_from_config(self, config):
        super().build_from_config(config)
        saved = (config or {}).get("layout_digest")
        if saved and saved != layouts.digest(self.matmul.layout):
            raise ValueError(
                f"layer {self.name}: layout {self.layout!r} gives another pattern than the one "
                "that the saved weights belong to; give the layer that layout as an array"
            )

    # Dense and back.

    @classmethod
    def from_dense(cls, layer, layout=None, block_size=32, **kwargs):
        """A built layer with the weights of a dense one, less those outside the layout.

        Args:
          layer: a built `keras.layers.Dense`. Activation, bias, regularizers and dtype policy carry
            over; initializers and a kernel_constraint, which depend on the kernel's shape, do not.
          layout, block_size: as for the class.
          **kwargs: anything else that the class takes, in place of what carries over.

        Raises:
          ValueError: if `layer` is not built.
        """
        if not layer.built:
            raise ValueError(f"layer {layer.name} is not built, so it has no weights to take over")
        shared = {key: getattr(layer, key) for key in _SHARED_WITH_DENSE}
        shared["dtype"] = layer.dtype_policy
        sparse = cls(layer.units, block_size, layout, **{**shared, **kwargs})
        kernel = layer.kernel.numpy()
        batch = (None,)
        features = kernel.shape[:1]
        sparse.build(batch + features if sparse.feature_axis == 1 else features + batch)
        sparse.kernel.assign(sparse.matmul.from_dense(kernel))
        if sparse.use_bias and layer.use_bias:
            sparse.bias.assign(layer.bias)
        return sparse

    def to_dense(self, **kwargs):
        """A built `keras.layers.Dense` with the same weights, and zeros outside the layout.

        It takes features last, whatever this layer's feature axis.

        Args:
          **kwargs: anything that Dense takes, in place of what carries over.

        Raises:
          ValueError: if this layer is not built.
        """
        if not self.built:
            raise ValueError(f"layer {self.name} is not built, so it has no weights to hand over")
        shared = {key: getattr(self, key) for key in _SHARED_WITH_DENSE}
        shared["dtype"] = self.dtype_policy
        dense = keras.layers.Dense(self.units, **{**shared, **kwargs})
        dense.build((None, self.matmul.C))
        dense.kernel.assign(self.matmul.to_dense(self.kernel.numpy()))
        if self.use_bias and dense.use_bias:
            dense.bias.assign(self.bias)
        return dense
