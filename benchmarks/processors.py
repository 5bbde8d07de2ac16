"""The native core on each kind of processor: the same bits everywhere, and how fast each form is.

A form counts where it runs: on this processor, or emulated on it. Figures that this processor cannot give are missing
with `needs: ...` as the reason; that is no miss. `engine` has the ratios of the form that serves here over all peers.

forms_identical: of all forms that run or are emulated here, the share whose states equal the golden digests: 200
segments of three shapes without a window and with 64 and 128 on this processor; 16 segments for Arm under qemu-user.

cache_moved: segments computed anew when a server with another form answers from the folder that one form wrote, in all
pairs with the fastest form; a vector that differs in any bit counts as all of its document's segments.

quantised_same: 1 if quantising the model here gives the manifest's digest.

wheel_serves: the wheel in an empty environment without a compiler: the share of its forms that run here and give the
golden digests of 16 segments.

avx512_kept: tokens/s of the engine with the AVX-512 form over those of another checkout of the repository (`--before`),
which must have been built; both in this environment, in turns.

generic_x_reference: tokens/s of the generic form over those of the 8-bit operations in plain PyTorch.

x_naive_avx2, x_fp32_best_avx2, x_ort_int8_avx2: tokens/s of the engine with the AVX2 form over transformers as it loads
by default, fp32, one segment at a time; over the best peer in fp32 (transformers, ONNX Runtime with its fusions,
OpenVINO); over ONNX Runtime with dynamic int8.

amx_x_bf16: tokens/s of the engine with the AMX form over transformers in bf16, eager or compiled.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import encoder
from benchmarks import golden, workloads
from benchmarks.figures import Figure, Figures, Missing, Outcome, attempt
from benchmarks.peers.event import Event
from benchmarks.peers.lineup import EXACT, Contender, Workload, named
from benchmarks.peers.protocol import Ids
from benchmarks.race import Run, raced, timed
from benchmarks.served import serve
from benchmarks.statistics import ratio
from benchmarks.wheel import wheel_serves
from encoder.native import library
from encoder.native.core import runs_here
from encoder.threads import usable_cores
from octavo.client import Client
from server.config.folders import cache_home
from server.config.schema import ModelSettings
from server.fetch.manifest import eight_bits

ROOT = Path(__file__).parents[1]
_EMULATOR_TOOLS_MISSING = 2
_ENGINE = """
import json, sys, time
from pathlib import Path
import numpy as np
from benchmarks.runner import Engine
folder, file = map(Path, sys.argv[1:])
engine = Engine(folder)
segments = [np.asarray(ids, np.int32) for ids in json.loads(file.read_text())]
print(engine.encoder.kernels, flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    engine.embed(segments)
    print(time.perf_counter() - start, flush=True)
"""
"""Runs in any checkout that has this class; each line that comes in is a round."""
_OVER: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "avx2": (
        "a processor with AVX2 alone",
        {
            "x_naive_avx2": ("naive",),
            "x_fp32_best_avx2": tuple(each.name for each in EXACT),
            "x_ort_int8_avx2": ("onnxruntime",),
        },
    ),
    "amx": ("a processor with AMX", {"amx_x_bf16": ("bf16", "bf16_compiled")}),
}
"""For a form what it needs, and its ratios, each with the contenders of which the fastest counts."""


@click.option("--before", type=click.Path(path_type=Path, exists=True, file_okay=False), help="For avx512_kept.")
@click.option("--emulate/--no-emulate", default=True, show_default=True, help="Run the forms for Arm under qemu-user.")
@click.option("--tokens", default=16_384, show_default=True, help="Tokens of a round.")
@click.option("--rounds", default=9, show_default=True, help="Rounds of each comparison.")
@click.option("--seconds", default=200.0, show_default=True, help="No round of the peers' race begins after that.")
@click.option("--install/--no-install", default=True, show_default=True, help="Make missing peers' environments.")
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
def run(
    before: Path | None, emulate: bool, tokens: int, rounds: int, seconds: float, install: bool, model: str
) -> Figures:
    """Compare bits, then times."""
    folder = ModelSettings(path=model).folder
    segments = workloads.content_segments(folder, tokens=tokens)
    few = workloads.content_segments(folder, tokens=tokens // 16)
    forms = [form for form in library.FORMS[library.architecture()] if runs_here(form)]
    served = [form for form in forms if form not in library.EMULATED]
    return {
        **attempt(["forms_identical"], lambda: _identical(forms, emulate=emulate)),
        **attempt(["cache_moved"], lambda: _moved(served, folder)),
        **attempt(["quantised_same"], lambda: _quantised(folder)),
        **attempt(["wheel_serves"], _wheel),
        **attempt(["avx512_kept"], lambda: _kept(served[0], before, folder, segments, rounds)),
        **attempt(["generic_x_reference"], lambda: _generic(folder, few, rounds)),
        **over_peers("avx2", served[0], folder, segments, rounds, seconds, install=install),
        **over_peers("amx", served[0], folder, segments, rounds, seconds, install=install),
    }


def _needs(what: str) -> Missing:
    return Missing(f"needs: {what}")


def _identical(forms: Sequence[str], *, emulate: bool) -> dict[str, Outcome]:
    """Compare every form's digests with the golden ones; each in a process of its own."""
    same = {form: _digests(form) == golden.golden() for form in forms}
    if emulate:
        command = [sys.executable, "-m", "tests.encoder.emulated"]
        done = subprocess.run(command, cwd=ROOT, env=_environment(ROOT), capture_output=True, text=True, check=False)
        if done.returncode == _EMULATOR_TOOLS_MISSING:
            click.echo(done.stderr.strip(), err=True)
        for line in done.stdout.splitlines():
            architecture, form, *_ = line.split()
            name = f"{form} on {architecture}"
            same[name] = same.get(name, True) and line.endswith("the golden state")
    click.echo(f"  forms: {', '.join(f'{form}: {same[form]}' for form in same)}", err=True)
    return {"forms_identical": Figure(sum(same.values()) / len(same), "share", n=len(same))}


def _digests(form: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.golden", form]
    return json.loads(subprocess.check_output(command, cwd=ROOT, env=_environment(ROOT)))


def _environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{checkout}:{checkout / 'proto'}"}


def _moved(forms: Sequence[str], folder: Path) -> dict[str, Outcome]:
    """Write a cache folder with the fastest form and read it with each other one, and the other way round."""
    (text,) = workloads.consecutive([20_000])
    anew = 0.0
    for other in forms[1:]:
        for writes, reads in ((forms[0], other), (other, forms[0])):
            with tempfile.TemporaryDirectory(prefix="octavo-moved-") as home:
                (vector, computed), (other_vector, again) = (
                    _embedded(form, folder, Path(home), text) for form in (writes, reads)
                )
            if not computed:
                raise AssertionError("the cache was not empty")
            anew += again if np.array_equal(vector, other_vector) else computed
    return {"cache_moved": Figure(anew, "segments", n=2 * (len(forms) - 1))}


def _embedded(form: str, folder: Path, home: Path, text: str) -> tuple[NDArray[Any], float]:
    """A text's vector, and how many segments were computed for it."""
    flags = ("--model", str(folder), "--cache-dir", str(home / "cache"), "--set", f"compute.isa={form}")
    config = f'[cache]\nsecret_file = "{home / "secret"}"\nresults = false\n'
    with serve(*flags, config=config) as server, Client(server.address) as client:
        vector = client.embed(text, timeout=600).vector
        return vector, server.metric("octavo_segments_total", source="computed")


def _quantised(folder: Path) -> dict[str, Outcome]:
    model = encoder.load(folder, scheme="int8", device="cpu", isa="generic")  # which quantises anew
    return {"quantised_same": Figure(model.digest == eight_bits()[folder.name], "share")}


def _wheel() -> dict[str, Outcome]:
    with tempfile.TemporaryDirectory(prefix="octavo-wheel-") as work:
        return {"wheel_serves": Figure(wheel_serves(Path(work)), "share")}


def _kept(form: str, before: Path | None, folder: Path, segments: Sequence[Ids], rounds: int) -> dict[str, Outcome]:
    if form != "avx512":
        return {"avx512_kept": _needs("a processor with AVX-512 VNNI and without AMX")}
    if before is None:
        return {"avx512_kept": Missing("--before was not given")}
    with _engine(before, folder, segments) as old, _engine(ROOT, folder, segments) as new:
        seconds = raced({"before": old, "after": new}, rounds)
    return {"avx512_kept": ratio(seconds["before"], seconds["after"])}


@contextmanager
def _engine(checkout: Path, folder: Path, segments: Sequence[Ids]) -> Iterator[Run]:
    """A checkout's engine in a process of its own; a run gives the seconds that it takes for the segments."""
    with tempfile.TemporaryDirectory(prefix="octavo-segments-") as scratch:
        file = Path(scratch) / "segments.json"
        file.write_text(json.dumps([ids.tolist() for ids in segments]))
        command = [sys.executable, "-c", _ENGINE, str(folder), str(file)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        with subprocess.Popen(command, cwd=checkout, env=_environment(checkout.resolve()), **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            told, heard = process.stdout, process.stdin
            click.echo(f"  {checkout.name}: {told.readline().strip()}", err=True)

            def one() -> float:
                heard.write("\n")
                return float(told.readline())

            yield one
            heard.close()


def _generic(folder: Path, segments: Sequence[Ids], rounds: int) -> dict[str, Outcome]:
    seconds = raced({isa: _running(folder, segments, isa) for isa in ("generic", "reference")}, rounds)
    return {"generic_x_reference": ratio(seconds["reference"], seconds["generic"])}


def over_peers(
    form: str, fastest: str, folder: Path, segments: Sequence[Ids], rounds: int, seconds: float, *, install: bool
) -> dict[str, Outcome]:
    """The ratios of a form over its peers, if it is the fastest one here."""
    needed, ratios = _OVER[form]
    if form != fastest:
        return dict.fromkeys(ratios, _needs(needed))

    def measure() -> Figures:
        octavo = Contender("octavo", "octavo", ("content",), {"isa": form}, alone=(0,))
        peers = dict.fromkeys(
            ("naive", *(name for names in ratios.values() for name in names))
        )  # naive: to compare with
        given = [Workload("content", folder, segments), Workload("check", folder, segments[:8])]
        with Event(given, usable_cores(), install=install, lineup=(octavo, *named(*peers))) as event:
            event.race(rounds, at_most=seconds)
            figures: dict[str, Outcome] = dict(event.speeds())
            for name, contenders in ratios.items():
                figures |= attempt([name], partial(_ratio, event, name, contenders))
            return figures

    return attempt(ratios, measure)


def _ratio(event: Event, name: str, contenders: Sequence[str]) -> Figures:
    return {name: event.over("content", *contenders)}


def _running(folder: Path, segments: Sequence[Ids], isa: str) -> Run:
    model = encoder.load(folder, scheme="int8", device="cpu", isa=isa, keep=cache_home() / "int8")
    return timed(lambda: model.run(model.batch(segments), 0, model.layers))
