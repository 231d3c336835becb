"""`python -m bsparse_tf info|layout|bench`."""

import sys

from bsparse_tf.cli import main

if __name__ == "__main__":
    sys.exit(main())
