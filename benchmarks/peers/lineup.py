"""The contenders of the scenarios `engine` and `processors`, their workloads and their configurations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Ids

_BATCHES = (1, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to run a model: a peer with options.

    `alone` and `a_core_each` are the batch sizes to try with one process on all cores, and with one process a core;
    `on` names the workloads.
    """

    name: str
    peer: str
    on: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    alone: tuple[int, ...] = ()
    a_core_each: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Workload:
    """Segments for a model. `batches` stands for every contender's own batch sizes where it is given."""

    name: str
    folder: Path
    segments: Sequence[Ids]
    batches: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Unpadded tokens, specials included."""
        return sum(map(len, self.segments))


LINEUP = (
    Contender("octavo", "octavo", ("512", "content", "short", "base"), alone=(0,)),
    Contender("octavo_bf16", "octavo", ("content",), {"scheme": "bf16"}, alone=(0,)),
    Contender("naive", "transformers", ("content",), alone=(1,)),
    Contender(
        "bf16", "transformers", ("512", "content", "short", "base"), {"dtype": "bfloat16"}, _BATCHES, _BATCHES
    ),
    Contender(
        "bf16_compiled",
        "transformers",
        ("content", "base"),
        {"dtype": "bfloat16", "compiled": True}, (1, 8, 32), (1, 8)
    ),
    Contender("onnxruntime", "onnxruntime", ("512", "content"), {}, _BATCHES, (1, 8)),
    Contender("openvino", "openvino", ("512", "content"), {}, _BATCHES, (1, 8)),
)  # fmt: skip

EXACT = (
    Contender("naive", "transformers", ("content",), alone=(1,)),
    Contender("fp32", "transformers", ("content",), {}, _BATCHES, (1, 8)),
    Contender("onnxruntime_fp32", "onnxruntime", ("content",), {"quantised": False}, _BATCHES, (1, 8)),
    Contender("openvino_fp32", "openvino", ("content",), {"precision": "f32"}, _BATCHES, (1, 8)),
)  # fmt: skip
"""Peers that round nothing to fewer bits than fp32."""


def named(*names: str) -> tuple[Contender, ...]:
    """Contenders of `LINEUP` and `EXACT` by their names."""
    return tuple({each.name: each for each in (*LINEUP, *EXACT)}[name] for name in names)


def sizes_to_try(sizes: tuple[int, ...], workload: Workload) -> tuple[int, ...]:
    """List batch sizes: the workload's where the contender has a choice at all, none larger than the work."""
    tried = workload.batches if len(sizes) > 1 and workload.batches else sizes
    return tuple(batch for batch in tried if batch <= len(workload.segments))
