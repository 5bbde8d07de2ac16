"""`ready_x`: `octavo serve` until it is ready, over what no start can do without.

That is a fresh Python which imports torch and reads the model's weights with safetensors. Both begin with the start of
the process and end with a line on its output. The two take turns; the server's 8-bit weights, a cache folder and
compiled modules are there from the warm-up, as they are from a user's second start on.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.figures import Figure, Figures
from benchmarks.race import Race
from benchmarks.served import PROGRAM, last_line, stop
from benchmarks.statistics import ratio, summarise
from server.config.schema import ModelSettings

_MODEL = "all-MiniLM-L6-v2"
_PAIRS = 9
_ALONE = (
    "import sys, torch; from safetensors.torch import load_file; load_file(sys.argv[1]); print('ready', flush=True)"
)


def measure(_: str) -> Figures:
    """Start both in turns."""
    weights = ModelSettings(path=_MODEL).folder / "model.safetensors"
    with tempfile.TemporaryDirectory(prefix="octavo-start-") as scratch:
        log = Path(scratch) / "log"
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{scratch}/compiled"}
        flags = ("--listen", "127.0.0.1:0", "--set", "metrics.listen=127.0.0.1:0", "--cache-dir", f"{scratch}/cache")
        race = Race(
            {
                "serve": lambda: _until_ready(log, environment, "-c", PROGRAM, "serve", "--model", _MODEL, *flags),
                "alone": lambda: _until_ready(log, environment, "-c", _ALONE, str(weights)),
            }
        )
        race.warm_up(2)
        race.measure(_PAIRS)
    if race.missing:
        return dict.fromkeys(("ready_x",), next(iter(race.missing.values())))
    serve, alone = race.seconds["serve"], race.seconds["alone"]
    figures: dict[str, Figure] = {"ready_x": ratio(serve, alone)}
    return {**figures, "ready_s": summarise(serve, "s"), "ready_alone_s": summarise(alone, "s")}


def _until_ready(log: Path, environment: Mapping[str, str], *arguments: str) -> float:
    """Seconds from the start of a Python to its line."""
    with log.open("wb") as errors:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=errors, env=environment)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - began
        finally:
            stop(process)
    if not line.startswith(b"ready"):
        raise RuntimeError(last_line(log))
    return seconds
