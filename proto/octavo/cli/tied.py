"""`python -m octavo.cli.tied`: like `octavo`, but stops when its parent process does.

Standard input is a pipe whose other end the parent holds open without writing. However the parent ends, even by kill
-9, the kernel closes it.
"""

import os
import signal
import sys
import threading
import time

from octavo.cli import main

BETWEEN_SIGNALS = 0.5  # seconds; the second signal stops immediately what the first asked to finish


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(BETWEEN_SIGNALS)


threading.Thread(target=_end_with_parent, daemon=True).start()
main()
