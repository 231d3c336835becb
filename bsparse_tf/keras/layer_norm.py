"""`LayerNorm`: layer normalisation in one op, for features last and features first."""

import keras

from bsparse_tf import argument_checks as checks
from bsparse_tf import native
from bsparse_tf.layer_normalization import layer_norm


@keras.saving.register_keras_serializable(package="bsparse_tf")
class LayerNorm(keras.layers.Layer):
    """`bsparse_tf.layer_norm` with its gain and bias.

    Differs from `keras.layers.LayerNormalization` in that the features may come first, in equal
    segments that are normalised apart, and in the fused relu. Under the policies mixed_float16 and
    mixed_bfloat16 gain and bias stay in float32.

    Args:
      feature_axis: 1 or -1 for features last, [..., features]; 0 for features first,
        [features, ...].
      segments: a divisor of the features: so many equal slices are normalised each by itself.
      relu: whether to cut off what is negative.
      epsilon: added to the variance.
      center, scale: whether there is a bias, a gain.
      bias_initializer, gain_initializer, bias_regularizer, gain_regularizer, bias_constraint,
        gain_constraint: any of Keras's.
      **kwargs: name, dtype, trainable: as for any layer.

    Attributes:
      gain, bias: variables [features], or None.

    Raises:
      ValueError: if the features are not known when the layer is built, or are not a multiple of
        `segments`.
    """

    def __init__(
        self,
        feature_axis=1,
        segments=1,
        relu=False,
        epsilon=1e-6,
        center=True,
        scale=True,
        bias_initializer="zeros",
        gain_initializer="ones",
        bias_regularizer=None,
        gain_regularizer=None,
        bias_constraint=None,
        gain_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        feature_axis = 1 if feature_axis == -1 else feature_axis
        checks.check_feature_axis(feature_axis)
        if segments < 1:
            raise ValueError(f"segments must be positive; got {segments}")
        self.feature_axis = int(feature_axis)
        self.segments = int(segments)
        self.relu = bool(relu)
        self.epsilon = float(epsilon)
        self.center = center
        self.scale = scale
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.gain_initializer = keras.initializers.get(gain_initializer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.gain_regularizer = keras.regularizers.get(gain_regularizer)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.gain_constraint = keras.constraints.get(gain_constraint)
        self.gain = None
        self.bias = None
        self.input_spec = keras.InputSpec(min_ndim=2)
        self.supports_masking = True
        # Keras compiles a model with XLA by itself if all layers say that they can be.
        self.supports_jit = native.xla_status() is None

    def build(self, input_shape):
        axis = -1 if self.feature_axis == 1 else 0
        features = input_shape[axis]
        if features is None:
            raise ValueError(
                f"inputs have shape {tuple(input_shape)}: their features, on axis {axis} "
                f"(feature_axis={self.feature_axis}), must be known when the layer is built"
            )
        if features % self.segments != 0:
            raise ValueError(
                f"inputs have shape {tuple(input_shape)}: {features} features on axis {axis}; "
                f"expected a multiple of segments={self.segments}"
            )
        self.input_spec = keras.InputSpec(min_ndim=2, axes={axis: features})
        if self.scale:
            self.gain = self.add_weight(
                name="gain",
                shape=(features,),
                initializer=self.gain_initializer,
                regularizer=self.gain_regularizer,
                constraint=self.gain_constraint,
                autocast=False,  # The op takes float32 parameters beside 16-bit activations.
            )
        if self.center:
            self.bias = self.add_weight(
                name="bias",
                shape=(features,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                autocast=False,
            )

    def call(self, inputs):
        return layer_norm(
            inputs,
            self.gain,
            self.bias,
            axis=self.feature_axis,
            segments=self.segments,
            relu=self.relu,
            epsilon=self.epsilon,
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = {
            "feature_axis": self.feature_axis,
            "segments": self.segments,
            "relu": self.relu,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "gain_initializer": keras.initializers.serialize(self.gain_initializer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "gain_regularizer": keras.regularizers.serialize(self.gain_regularizer),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "gain_constraint": keras.constraints.serialize(self.gain_constraint),
        }
        return {**super().get_config(), **config}
