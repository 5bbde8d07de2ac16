"""The optimisations of the `ablation` scenario, and what each costs in accuracy.

Labelled documents of 512 to 4,096 tokens are read in each configuration by the servers' encoder. The reference is naive
reading: fp32, cut after every 510 tokens; tests compare our fp32 with transformers. A classifier trained on the
reference's document vectors is applied to all, as in the `fidelity` scenario.

Cuts change a vector far more than 8 bits do, so changed decisions are reported twice: relative to naive reading, and
relative to fp32 on the same cuts, which isolates the effect of numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity import cosines, decisions, embedder, labelled, read_documents
from benchmarks.figures import Figure, Outcome
from benchmarks.statistics import proportion, summarise
from chunking import Policy, load_tokenizer

_MOST_TOKENS = 4_096


@dataclass(frozen=True, slots=True)
class Levers:
    """How a server of ours is set."""

    scheme: str = "fp32"
    policy: Policy = "fixed"
    window: int = 0
    cache: bool = False

    def config(self, folder: Path) -> str:
        """Write the server's TOML file."""
        return (
            f'[cache]\nenabled = {str(self.cache).lower()}\n[[models]]\npath = "{folder}"\nscheme = "{self.scheme}"\n'
            f'window = {self.window}\nsegmentation.policy = "{self.policy}"\n'
        )

    @property
    def reading(self) -> "Levers":
        """What decides vectors: all but the cache, which never changes an answer."""
        return replace(self, cache=False)


NONE = Levers()


def rows(window: int) -> dict[str, Levers]:
    """List our rows by name: no lever, each alone, what the server is by default, and all together."""
    default = Levers(scheme="auto", policy="content", cache=True)
    return {
        "server": NONE,
        "segments": replace(NONE, policy="content"),
        "window": replace(NONE, window=window),
        "int8": replace(NONE, scheme="auto"),
        "cache": replace(NONE, cache=True),
        "default": default,
        "all": replace(default, window=window),
    }


def accuracy(folder: Path, ways: Mapping[str, Levers], documents: int) -> dict[str, Outcome]:
    """Compare each way of reading with naive reading, and with fp32 on the same cuts, over both corpora."""
    tokenizer = load_tokenizer(folder)
    needed = {levers.reading for levers in ways.values()}
    needed |= {NONE} | {replace(NONE, policy=levers.policy) for levers in needed}
    embedders = {levers: embedder(folder, levers.scheme, levers.window) for levers in needed}
    found: dict[str, list[NDArray[Any]]] = {}
    for name, sample in labelled(tokenizer, documents, _MOST_TOKENS).items():
        click.echo(f"{len(sample)} documents of {name} …", err=True)
        vectors = {
            levers: read_documents(embed, sample, tokenizer, levers.policy) for levers, embed in embedders.items()
        }
        true = np.array([document.label for document in sample])
        for row, levers in ways.items():
            plain = replace(NONE, policy=levers.policy)
            mine = vectors[levers.reading]
            naive, own = decisions(vectors[NONE], [mine], true.tolist())
            same, own_same = decisions(vectors[plain], [mine], true.tolist())
            for figure, values in {
                "accuracy": own == true,
                "flips": own != naive,
                "flips_same_cuts": own_same != same,
                "cosine": cosines(mine, vectors[NONE]),
                "cosine_same_cuts": cosines(mine, vectors[plain]),
            }.items():
                found.setdefault(f"ablation.{row}.{figure}", []).append(values)
    return {name: _figure(np.concatenate(values)) for name, values in found.items()}


def _figure(values: NDArray[Any]) -> Figure:
    """Summarise cosines by their mean, and yes or no by the share of yes."""
    return proportion(values, "%") if values.dtype == np.bool_ else summarise(values, "", np.mean)
