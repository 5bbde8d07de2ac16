"""Speed of the engine, from token ids to segment vectors, compared with its peers at their best.

All run in one race, each peer in its own environment (created on first use, unless `--no-install` is given). Speed
counts unpadded tokens. Octavo runs in its default configuration: 8-bit if the machine allows it, full attention,
content-defined cuts.
"""

import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import click

from benchmarks import workloads
from benchmarks.figures import Figure, Figures, Outcome, attempt
from benchmarks.peers.event import Event, loaded_name
from benchmarks.peers.lineup import Workload
from benchmarks.race import Run, raced
from benchmarks.statistics import percentile_ms, ratio, summarise
from encoder.threads import usable_cores
from server.config.schema import ModelSettings

_QUERY_TOKENS, _QUERY_REPEATS = 16, 25
_OVER = {
    "x_bf16_512": ("512", "bf16"),
    "x_bf16_content": ("content", "bf16", "bf16_compiled"),
    "x_naive_content": ("content", "naive"),
    "x_ort_int8": ("content", "onnxruntime"),
    "x_openvino": ("content", "openvino"),
    "x_own_bf16": ("content", "octavo_bf16"),
    "x_short": ("short", "bf16"),
    "x_base_content": ("base", "bf16", "bf16_compiled"),
}
"""Each ratio's workload and contenders; the fastest contender counts."""


@click.option("--tokens", default=16_384, show_default=True, help="Tokens of each of the two large workloads.")
@click.option("--rounds", default=9, show_default=True, help="Rounds of the race, at most.")
@click.option("--seconds", default=200.0, show_default=True, help="No round begins after so many seconds of racing.")
@click.option("--base/--no-base", default=True, show_default=True, help="Race a model of BERT base's size too.")
@click.option("--install/--no-install", default=True, show_default=True, help="Make missing peers' environments.")
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
def run(tokens: int, rounds: int, seconds: float, base: bool, install: bool, model: str) -> Figures:
    """Race everyone, then the query, then attention alone."""
    folder = ModelSettings(path=model).folder
    with tempfile.TemporaryDirectory(prefix="octavo-base-") as scratch:
        entries = _workloads(folder, tokens)
        if base:
            entries.append(_base_workload(folder, Path(scratch) / "base", tokens // 2))
        with Event(entries, usable_cores(), install=install) as event:
            event.race(rounds, at_most=seconds)
            return _ratios(event) | _queries(event, folder) | _bytes(event, folder) | _attention() | _supporting(event)


def _workloads(folder: Path, tokens: int) -> list[Workload]:
    content = workloads.content_segments(folder, tokens=tokens)
    return [
        Workload("512", folder, workloads.full_segments(folder, tokens)),
        Workload("content", folder, content),
        Workload("short", folder, workloads.short_texts(folder, 256, 8, 64), batches=(8, 32, 64, 128)),
        Workload("query", folder, workloads.short_texts(folder, 1, _QUERY_TOKENS, _QUERY_TOKENS)),
        Workload("check", folder, content[:8]),
    ]


def _base_workload(folder: Path, target: Path, tokens: int) -> Workload:
    """Build a model of 12 layers and 768 hidden with the tokenizer at hand; random weights do for time."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(target)
    return Workload("base", target, workloads.content_segments(folder, tokens=tokens), batches=(1, 8, 16))


def _ratios(event: Event) -> dict[str, Outcome]:
    figures: dict[str, Outcome] = {}
    for name in _OVER:
        figures |= attempt([name], partial(_ratio, event, name))
    return figures


def _ratio(event: Event, name: str) -> Figures:
    workload, *contenders = _OVER[name]
    return {name: event.over(workload, *contenders)}


def _queries(event: Event, folder: Path, rounds: int = 9) -> dict[str, Outcome]:
    """One query at a time, on all cores and on one; each round's sample is the median of many."""

    def asking(contender: str, threads: int) -> Run:
        team, model = event.team(contender), loaded_name(contender, folder)
        return lambda: median(team.run(model, "query", 1, threads, _QUERY_REPEATS))

    def measure() -> Figures:
        cores = usable_cores()
        # Ours decides by itself: a segment that is alone gets all cores. The peer may choose.
        peers = {f"bf16/{threads}": asking("bf16", threads) for threads in {1, cores}}
        seconds = raced({"ours": asking("octavo", cores)} | peers, rounds)
        ours = seconds.pop("ours")
        theirs = min(seconds.values(), key=median)
        return {
            "query_p50": ratio(ours, theirs),
            "query_ms": percentile_ms(ours),
            "query_ms.bf16": percentile_ms(theirs),
        }

    return attempt(["query_p50"], measure)


def _bytes(event: Event, folder: Path) -> dict[str, Outcome]:
    """Bytes that our encoder holds, over the parameters' at four bytes each."""

    def measure() -> Figures:
        event.team("octavo")
        told = event.told[loaded_name("octavo", folder)]
        layers, embeddings = _fp32_bytes(folder)
        held_layers, held_embeddings = told["layer_bytes"], told["embedding_bytes"]
        return {
            "bytes_layers": Figure(held_layers / layers, "x"),
            "bytes_model": Figure((held_layers + held_embeddings) / (layers + embeddings), "x"),
        }

    return attempt(["bytes_layers", "bytes_model"], measure)


def _fp32_bytes(folder: Path) -> tuple[int, int]:
    """Four bytes for each parameter of the layers and of the embeddings, as transformers builds the model."""
    import torch
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.from_pretrained(folder, local_files_only=True)
        )

    def count(part: torch.nn.Module) -> int:
        return sum(4 * parameter.numel() for parameter in part.parameters())

    return count(model.encoder), count(model.embeddings)


def _attention(samples: int = 9) -> dict[str, Outcome]:
    """Attention alone on one thread, as a stream runs it, against PyTorch's."""

    def measure() -> Figures:
        import torch

        from benchmarks import kernels
        from encoder.ops.native import best

        torch.set_num_threads(1)
        native = best()
        with torch.inference_mode():
            return {
                name: summarise([kernels.attention(native, window, rounds=5) for _ in range(samples)], "x")
                for name, window in (("attention_full", 0), ("attention_64", 64))
            }

    return attempt(["attention_full", "attention_64"], measure)


def _supporting(event: Event) -> dict[str, Outcome]:
    """Add what the ratios are made of."""
    return {**event.speeds(), **event.cosines}
