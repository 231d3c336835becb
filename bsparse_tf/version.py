"""The version of this package, and of the TensorFlow that it is made for."""

__version__ = "0.1.0"

# An op library uses TensorFlow's C++ interface, which changes with every minor version.
SUPPORTED_TENSORFLOW = "2.21"
