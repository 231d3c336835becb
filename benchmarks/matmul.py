"""Entry to `python -m bsparse_tf bench` that keeps its results beside this file.

    python benchmarks/matmul.py [options of `python -m bsparse_tf bench`]
"""

import pathlib
import sys

from bsparse_tf.cli import main

RESULTS = pathlib.Path(__file__).parent / "results" / "cpu"

if __name__ == "__main__":
    sys.exit(main(["bench", "--out", str(RESULTS), *sys.argv[1:]]))
