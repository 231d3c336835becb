"""The command line. A subcommand is a module with add_arguments(parser) and run(args) -> int."""

import argparse
import importlib
from collections.abc import Sequence

SUBCOMMANDS = {
    "info": "show versions, devices, which kernels would run, and what is missing",
    "layout": "make, describe, draw and save a layout",
    "bench": "time block-sparse products beside dense, tf.sparse and SciPy",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the process's exit code: 0 good, 1 failed, 2 bad usage."""
    parser = argparse.ArgumentParser(
        prog="python -m bsparse_tf",
        description="Block-sparse linear layers for TensorFlow.",
        epilog="`python -m bsparse_tf COMMAND --help` tells more about a command.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in SUBCOMMANDS.items():
        module = importlib.import_module(f"bsparse_tf.cli.{name}")
        subparser = subparsers.add_parser(
            name, help=summary, description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)
