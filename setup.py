"""Puts the native libraries into the wheel. They are built by Bazel; no compiler flag is here.

The metadata is in pyproject.toml.
"""

import pathlib
import subprocess

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

_ROOT = pathlib.Path(__file__).resolve().parent
_PACKAGE = "bsparse_tf"
# The planner alone, for tests of the CUDA kernels on hosts without TensorFlow. The op library
# holds the same functions.
_FOR_TESTS_ONLY = {"libbsparse_plan.so"}


class BuildWithLibraries(build_py):
    """Copies what Bazel builds beside the Python files."""

    def run(self):
        subprocess.run([_ROOT / "tools" / "build"], check=True)
        super().run()
        target = pathlib.Path(self.build_lib) / _PACKAGE
        for library in sorted((_ROOT / _PACKAGE).glob("*.so")):
            if library.name in _FOR_TESTS_ONLY:
                continue
            self.copy_file(str(library), str(target / library.name))


class WheelForAnyPython(bdist_wheel):
    """The op library uses no interface of CPython: one wheel serves every version of it."""

    def get_tag(self):
        _, _, platform = super().get_tag()
        return "py3", "none", platform


class NativeDistribution(Distribution):
    """Without this the files would go to purelib, apart from the Python that loads them."""

    def has_ext_modules(self):
        return True


setup(
    cmdclass={"build_py": BuildWithLibraries, "bdist_wheel": WheelForAnyPython},
    distclass=NativeDistribution,
)
