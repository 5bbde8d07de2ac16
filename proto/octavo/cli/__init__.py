"""The command line, `octavo`."""

import sys


def main() -> None:
    """Runs the command line of this process and exits."""
    from octavo.cli.root import run  # noqa: PLC0415 - a package is imported for its modules too

    sys.exit(run(sys.argv[1:]))
