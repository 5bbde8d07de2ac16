"""The cost of an edit in segments, and the time of segmentation, for five kinds of text.

A sentence (in logs and source: a line; without punctuation: some words) is inserted, deleted or replaced anywhere. The
cost is the number of segments whose ids the document did not have before, which a cache would have to recompute. Kinds
are English, unpunctuated English, logs, Chinese and Python source. `edit_segments_p50` and `edit_segments_p95` are
those of the worst kind.
"""

import random
import re
import time
from dataclasses import dataclass
from itertools import pairwise

import click
import numpy as np

from benchmarks.figures import Figure, Figures
from benchmarks.statistics import percentile, summarise
from benchmarks.texts import KINDS
from chunking import Cutting, Policy, Segment, Tokenizer, budget, load_tokenizer, read
from server.config.schema import ModelSettings

_POSITIONS = 512
_DOCUMENTS = 10  # of each kind; the edits are spread over them
_CHARACTERS = 60_000
_CHINESE_CHARACTERS = 12_000
_TIMED_CHARACTERS = 1_000_000
_RANKS = (50, 95)


@click.option("--edits", default=200, show_default=True, help="Edits of each kind of text.")
@click.option("--seed", default=8**3, show_default=True, help="Makes texts and edits.")
@click.option("--policy", type=click.Choice(["content", "sentence", "fixed"]), default="content", show_default=True)
@click.option("--min-tokens", default=Cutting().min_tokens, show_default=True, help="Least tokens of a segment.")
@click.option("--model", default="all-MiniLM-L6-v2", show_default=True, help="Whose tokenizer, except for Chinese.")
@click.option("--multilingual", default="multilingual-e5-small", show_default=True, help="Whose, for Chinese.")
def run(edits: int, seed: int, policy: Policy, min_tokens: int, model: str, multilingual: str) -> Figures:
    """Measure all kinds."""
    tokenizers = {name: load_tokenizer(ModelSettings(path=name).folder) for name in {model, multilingual}}
    figures: dict[str, Figure] = {}
    for kind in KINDS:
        tokenizer = tokenizers[multilingual if kind == "chinese" else model]
        cutting = Cutting(policy, budget(tokenizer, _POSITIONS), min_tokens)
        counted = _count(kind, tokenizer, cutting, edits, seed)
        for rank in _RANKS:
            figures[f"edit_segments_p{rank}.{kind}"] = percentile(list(map(float, counted.absent)), rank, "segments")
        figures[f"edit_tokens.{kind}"] = summarise([100.0 * share for share in counted.shares], "%")
        figures[f"segment_tokens.{kind}"] = summarise(list(map(float, counted.lengths)), "tokens", np.mean)
        figures[f"speed.{kind}"] = _speed(kind, tokenizer, cutting, seed)
    worst = {
        f"edit_segments_p{rank}": max((figures[f"edit_segments_p{rank}.{kind}"] for kind in KINDS), key=_value)
        for rank in _RANKS
    }
    return worst | figures


@dataclass(frozen=True, slots=True)
class _Counted:
    """Segments absent before, and their share of the document's tokens, an edit; lengths of the segments before."""

    absent: list[int]
    shares: list[float]
    lengths: list[int]


def _count(kind: str, tokenizer: Tokenizer, cutting: Cutting, edits: int, seed: int) -> _Counted:
    counted = _Counted([], [], [])
    size = _CHINESE_CHARACTERS if kind == "chinese" else _CHARACTERS
    for number in range(_DOCUMENTS):
        draw = random.Random(f"{kind} {seed} {number}")
        text, other = KINDS[kind](draw, size), KINDS[kind](draw, size)
        before = _segments(text, tokenizer, cutting)
        known = {segment.ids.tobytes() for segment in before}
        counted.lengths.extend(segment.tokens for segment in before)
        for _ in range(edits // _DOCUMENTS):
            after = _segments(edited(draw, units(kind, text, draw), units(kind, other, draw)), tokenizer, cutting)
            new = [segment for segment in after if segment.ids.tobytes() not in known]
            counted.absent.append(len(new))
            counted.shares.append(sum(segment.tokens for segment in new) / sum(segment.tokens for segment in after))
    return counted


def units(kind: str, text: str, draw: random.Random) -> list[str]:
    """A text in the units of its kind, which laid end to end are the text: sentences, lines, or 8 to 40 words."""
    if kind == "unpunctuated":
        words = re.findall(r"\S+\s*", text)
        return ["".join(words[start:end]) for start, end in _steps(len(words), draw)]
    ends = {"english": r"(?<=[.!?])\s+", "chinese": r"(?<=[。！？])\n?"}.get(kind, r"\n")
    edges = [0, *(match.end() for match in re.finditer(ends, text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges) if end > start]


def edited(draw: random.Random, before: list[str], other: list[str]) -> str:
    """The text with a unit of another one inserted, or one of its own deleted or replaced."""
    place = draw.randrange(len(before))
    how = draw.choice(["insert", "delete", "replace"])
    new = [] if how == "delete" else [draw.choice([unit for unit in other if unit.strip()])]
    return "".join(before[:place] + new + before[place + (how != "insert") :])


def _steps(length: int, draw: random.Random) -> list[tuple[int, int]]:
    steps, start = [], 0
    while start < length:
        end = min(start + draw.randint(8, 40), length)
        steps.append((start, end))
        start = end
    return steps


def _segments(text: str, tokenizer: Tokenizer, cutting: Cutting) -> list[Segment]:
    return [segment for step in read(text, tokenizer, cutting) for segment in step]


def _speed(kind: str, tokenizer: Tokenizer, cutting: Cutting, seed: int) -> Figure:
    """Tokens a second from text to segments, on one thread."""
    size = _TIMED_CHARACTERS * _CHINESE_CHARACTERS // _CHARACTERS if kind == "chinese" else _TIMED_CHARACTERS
    text = KINDS[kind](random.Random(seed), size)
    speeds = []
    for _ in range(5):
        start = time.perf_counter()
        tokens = sum(segment.tokens for segment in _segments(text, tokenizer, cutting))
        speeds.append(tokens / (time.perf_counter() - start))
    return summarise(speeds, "tokens/s")


def _value(figure: Figure) -> float:
    return figure.value
