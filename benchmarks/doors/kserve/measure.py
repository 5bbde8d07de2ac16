"""KServe v2 against octavo.v1: the same vectors, about as fast, nothing cut, and nothing that breaks it.

tritonclient runs unchanged, in the environment that `make test-clients` makes. Each client has a process of its own.
Overhead compares their median times for one short text that the cache does not know, in turns, on one server. Vectors
and token counts are compared for texts of one sentence to 60,000 tokens. Frames are random or mutated requests of all
methods, sent to a server in its default settings.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np

from benchmarks.figures import Figure, Figures, attempt_each
from benchmarks.hostile import fuzz
from benchmarks.race import Run, raced
from benchmarks.served import serve
from benchmarks.statistics import percentile_ms, ratio
from benchmarks.workloads import DEFAULT_MODEL, with_tokens
from chunking import load_tokenizer
from octavo.client import Client
from server.config.schema import ModelSettings
from server.kserve import messages

TRITON = Path(__file__).parents[3] / ".venv-clients" / "triton" / "bin" / "python"
SHORT = "The light house number {} at the north sea is kept by an old man and his daughter."
LENGTHS = (600, 1_000, 3_000, 10_000, 60_000)
_TIMEOUT = 600.0
_INFER = [messages.SERVICE.methods_by_name[name] for name in ("ModelInfer", "ModelStreamInfer")]
_METHODS = [*messages.SERVICE.methods, *(10 * _INFER)]  # most frames are for what does most


def measure(frames: int, seed: int) -> Figures:
    """Measure each part with a server of its own."""
    return attempt_each(
        {
            ("kserve_overhead",): lambda _: overhead(),
            ("kserve_same_vectors", "kserve_truncated_silently"): lambda _: answers(),
            ("kserve_internal",): lambda _: internal(frames, seed),
        }
    )


def overhead(rounds: int = 20, calls: int = 100) -> Figures:
    """One short text: tritonclient's median time over that of Octavo's client."""
    with (
        serve("--model", DEFAULT_MODEL) as server,
        speaking(TRITON, "client.py", server.address) as kserve,
        speaking(Path(sys.executable), "octavo_client.py", server.address) as own,
    ):
        took = raced({"kserve": kserve.timed(calls), "octavo": own.timed(calls)}, rounds)
    return {
        "kserve_overhead": ratio(took["kserve"], took["octavo"]),
        "kserve_ms": percentile_ms(took["kserve"]),
        "octavo_ms": percentile_ms(took["octavo"]),
    }


def answers() -> Figures:
    """Vectors that differ from octavo.v1's, and tokens that were not read."""
    folder = ModelSettings(path=DEFAULT_MODEL).folder
    texts = [SHORT.format(1), *with_tokens(LENGTHS, load_tokenizer(folder)).values()]
    with serve("--model", DEFAULT_MODEL) as server:
        with Client(server.address) as client:
            expected = [client.embed(text, input_type="passage", timeout=_TIMEOUT) for text in texts]
        with speaking(TRITON, "client.py", server.address) as kserve:
            alone = [kserve.say([text]) for text in texts]
            together = kserve.say(texts)
    vectors = np.stack([result.vector for result in expected if result.vector is not None])
    answered = np.concatenate([_vectors(said) for said in alone])
    same = (answered == vectors).all(axis=1) & (_vectors(together) == vectors).all(axis=1)
    tokens = np.array([result.usage.tokens for result in expected])
    missing = [np.abs(tokens - np.concatenate([said["tokens"] for said in alone])), np.abs(tokens - together["tokens"])]
    return {
        "kserve_same_vectors": Figure(float(same.mean()), "share", n=len(texts)),
        "kserve_truncated_silently": Figure(float(np.sum(missing)), "tokens", n=2 * len(texts)),
    }


def internal(frames: int, seed: int) -> Figures:
    """Fuzzed calls that ended as INTERNAL or UNKNOWN, or never."""
    with serve(*(flag for name in fuzz.MODELS for flag in ("--model", name))) as server:
        calls = (fuzz.draw(seed, i, _METHODS) for i in range(frames))
        ends = asyncio.run(fuzz.send(server.address, calls, frames))
        counted = sum(server.metric("octavo_requests_total", code=code) for code in sorted(fuzz.FAULTS))
    faults = max(counted, sum(ends[code] for code in fuzz.FAULTS)) + ends[fuzz.LOST]
    return {
        "kserve_internal": Figure(faults, "calls", n=frames),
        **{f"kserve_fuzz_ends.{code}": Figure(count, "calls") for code, count in sorted(ends.items())},
    }


@dataclass(frozen=True, slots=True)
class Speaker:
    """A client in a process of its own."""

    ask: IO[str]
    hear: IO[str]

    def say(self, texts: Sequence[str], calls: int = 1) -> dict[str, Any]:
        """Have it embed texts."""
        self.ask.write(json.dumps({"texts": texts, "calls": calls}) + "\n")
        self.ask.flush()
        said: dict[str, Any] = json.loads(self.hear.readline())
        return said

    def timed(self, calls: int) -> Run:
        """A run of a race: the median time of calls with one short text."""
        return lambda: median(self.say([SHORT], calls)["seconds"])


@contextmanager
def speaking(python: Path, program: str, address: str) -> Iterator[Speaker]:
    """Run a client until the block ends."""
    if not python.exists():
        raise FileNotFoundError(f"{python} is not there: `make test-clients` makes it")
    command = [str(python), str(Path(__file__).with_name(program)), address, DEFAULT_MODEL]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Speaker(process.stdin, process.stdout)
        finally:
            process.stdin.close()


def _vectors(said: dict[str, Any]) -> Any:
    return np.frombuffer(bytes.fromhex(said["vectors"]), "<f4").reshape(len(said["tokens"]), -1)
