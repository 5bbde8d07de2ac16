"""Real clients from a registry, each in an environment of its own: unchanged, and none knows Octavo.

`make test-clients` makes the environments from `tests/clients/requirements-NAME.txt`. A program reads a plan from
standard input and prints what each client got.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import Figure, Figures
from benchmarks.served import Served, serve
from benchmarks.statistics import proportion
from octavo.client import Client
from server.auth.keys import Key

ROOT = Path(__file__).parents[2]
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "openai": ("openai", "openai-async"),
    "langchain": ("langchain",),
    "llama_index": ("llama-index",),
    "litellm": ("litellm",),
    "huggingface": ("huggingface",),
    "cohere": ("cohere",),
    "curl": ("curl",),
    "triton": ("triton", "triton-async", "triton-stream"),
}
"""The clients of each program."""

MODEL = "all-MiniLM-L6-v2"
VOCABULARY = "cl100k_base"  # of the token ids that LangChain sends in place of text
TEXTS = (
    "The light house at the north sea.",
    " ".join(f"On day {i} the keeper lit the lamp and wrote of wind, ships and weather." for i in range(120)),
)
LIMITED_CALLS = 3
LEAST_SECONDS = 1.5  # that three calls take at one a second
MOST_REFUSALS = 6  # of a client's three calls that wait as they are told, also when made at once
_SECONDS = 180
_RANKS = "llama_index/lib/python3*/site-packages/llama_index/core/_static/tiktoken_cache"


class NotInstalledError(RuntimeError):
    """A client's environment is not there."""


@dataclass(frozen=True, slots=True, eq=False)
class Doors:
    """A server with two keys for each program: one without limits, one of a call a second."""

    served: Served
    keys: Mapping[str, str]
    expected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client got; `faults` says what is wrong with it."""

    client: str
    faults: tuple[str, ...]


def python_of(program: str) -> Path:
    """The interpreter of a program's environment; curl needs none.

    Raises:
        NotInstalledError: there is none.
    """
    if program == "curl":
        return Path(sys.executable)
    python = ROOT / ".venv-clients" / program / "bin" / "python"
    if not python.exists():
        raise NotInstalledError(f"{program} is not installed: `make test-clients` does")
    return python


@contextmanager
def doors() -> Iterator[Doors]:
    """A server for all programs."""
    keys: dict[str, str] = {}
    variables = _ranks()
    config = f'models = ["{MODEL}"]\n[server]\nhttp_listen = "127.0.0.1:0"\n'
    config += f'http_token_ids = "{VOCABULARY if variables else ""}"\n[plans.slow]\nrequests_per_second = 1\n'
    for program in PROGRAMS:
        for name, plan in ((program, "default"), (f"{program}-slow", "slow")):
            record, keys[name] = Key.make()
            config += f'[clients.{name}]\nkeys = ["{record}"]\nplan = "{plan}"\n'
    with serve(config=config, variables=variables) as served, Client(served.address) as client:
        vectors = [client.embed(text).vector for text in TEXTS]
        yield Doors(served, keys, tuple(v.astype("<f4").tobytes().hex() for v in vectors if v is not None))


def outcomes(server: Doors, program: str) -> list[Outcome]:
    """Run a program, and judge what its clients got."""
    before = server.served.counted("octavo_requests_total")
    refused = _refusals(server)
    said = _run(server, program)
    assert server.served.counted("octavo_requests_total") > before
    each = (_refusals(server) - refused) / len(PROGRAMS[program])
    return [Outcome(client, tuple(_faults(said[client], server, each))) for client in PROGRAMS[program]]


def measure() -> Figures:
    """Share of clients that work; one that is not installed does not."""
    found: dict[str, tuple[str, ...]] = {}
    with doors() as server:
        for program, names in PROGRAMS.items():
            try:
                found |= {outcome.client: outcome.faults for outcome in outcomes(server, program)}
            except Exception as error:  # noqa: BLE001 - the others are tried all the same
                found |= dict.fromkeys(names, (str(error).strip().rpartition("\n")[2],))
    for name, faults in found.items():
        for fault in faults:
            click.echo(f"  {name}: {fault}", err=True)
    return {
        "clients_unchanged": proportion([not faults for faults in found.values()]),
        **{f"clients_unchanged.{name}": Figure(float(not faults), "share") for name, faults in found.items()},
    }


def _ranks() -> dict[str, str]:
    """Where tiktoken finds its vocabularies without downloading them: LlamaIndex ships them."""
    found = next((ROOT / ".venv-clients").glob(_RANKS), None)
    return {"TIKTOKEN_CACHE_DIR": str(found)} if found else {}


def _run(server: Doors, program: str) -> dict[str, Any]:
    plan = {
        "url": server.served.http,
        "address": server.served.address,
        "key": server.keys[program],
        "slow_key": server.keys[f"{program}-slow"],
        "model": MODEL,
        "texts": TEXTS,
    }
    script = ROOT / "tests" / "clients" / f"{program}_client.py"
    done = subprocess.run(
        [str(python_of(program)), str(script)],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
        env={name: os.environ.get(name, "") for name in ("PATH", "HOME")} | _ranks(),  # and no package of ours
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    said: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return said


def _faults(got: dict[str, Any], server: Doors, refusals: float) -> Iterator[str]:
    if tuple(got["vectors"]) != server.expected:
        yield "its vectors are not octavo.v1's"
    if not got["fault"]:
        yield "it was not told what is wrong"
    if got["answered"] != LIMITED_CALLS:
        yield f"{got['answered']} of {LIMITED_CALLS} calls beyond its limit ended well"
    if not refusals or got["seconds"] < LEAST_SECONDS:
        yield "it met no limit"
    if refusals > MOST_REFUSALS:
        yield f"it did not wait as it was told: {refusals:g} refusals"


def _refusals(server: Doors) -> float:
    try:
        return server.served.metric("octavo_requests_total", reason="RATE_LIMITED")
    except LookupError:
        return 0.0
