"""The command line, `octavo`."""

import os
import sys


def main() -> None:
    """Run this process's command line and exit."""
    _replace_closed_streams()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core writes to standard error what our messages tell
    try:
        from octavo.cli.interrupts import end_at_once  # noqa: PLC0415 - imports much of the standard library

        end_at_once()
    except KeyboardInterrupt:
        sys.exit(130)
    from octavo.cli.root import run  # noqa: PLC0415 - importing a submodule must not import all commands

    code = run(sys.argv[1:])
    end_at_once()
    sys.exit(code)


def _replace_closed_streams() -> None:
    """Opens what our parent closed, so that no file of ours takes its number.

    Output then fails with an error, as to any descriptor that cannot be written to, and input likewise; messages are
    discarded.
    """
    for number, name, mode, flags in (
        (0, "stdin", "r", os.O_WRONLY),
        (1, "stdout", "w", os.O_RDONLY),
        (2, "stderr", "w", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - a descriptor
