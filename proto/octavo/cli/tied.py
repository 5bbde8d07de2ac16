"""`python -m octavo.cli.tied`: as `octavo`, for as long as whoever started it lives.

Standard input is a pipe of which the parent holds the other end and says nothing: however the parent ends, by kill -9
too, the kernel closes it.
"""

import os
import signal
import sys
import threading
import time

from octavo.cli import main

BETWEEN_SIGNALS = 0.5  # seconds: the second one ends at once what the first has asked to finish


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(BETWEEN_SIGNALS)


threading.Thread(target=_end_with_parent, daemon=True).start()
main()
