"""The command line, `octavo`."""

import sys


def main() -> None:
    """Run this process's command line and exit."""
    from octavo.cli.root import run  # noqa: PLC0415 - importing a submodule must not import all commands

    sys.exit(run(sys.argv[1:]))
