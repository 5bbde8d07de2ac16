"""Speed and accuracy of number schemes and windows, and sources of 8-bit error: the tables of docs/numerics.md.

Speed is measured from token ids to segment vectors on content-defined segments, in turns. Errors are of segment vectors
relative to fp32: cosines, and for the parts of an 8-bit model 1 − cosine, with only that part in 8 bits (or bfloat16)
and all others in fp32, in plain PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks import workloads
from benchmarks.fidelity import cosines
from benchmarks.figures import Figure, Figures, Outcome, attempt
from benchmarks.peers.protocol import Ids, Vectors
from benchmarks.race import raced, timed
from benchmarks.runner import Engine
from benchmarks.statistics import ratio, summarise
from encoder.calibration import calibration_ids
from encoder.configuration import read_architecture
from encoder.heads.pooling import pool
from encoder.layers import Linear, read_embeddings, read_layer
from encoder.ops import Embeddings8, Quantiser
from encoder.ops import bytes as in_bytes
from encoder.ops.reference import Reference, activate, attention
from encoder.quantise import POSITIVE, SIGNED, QuantisedLinear, quantise
from encoder.weights import Checkpoint
from server.config.schema import ModelSettings

_SETTINGS = {"int8": 0, "int8_128": 128, "int8_64": 64, "bf16": 0, "fp32": 0}
"""Window of each; the name begins with the scheme."""


@click.option("--tokens", default=8_192, show_default=True, help="Tokens of content-defined segments to time.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of timing.")
@click.option("--segments", default=60, show_default=True, help="Segments whose errors are measured.")
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
def run(tokens: int, rounds: int, segments: int, model: str) -> Figures:
    """Race the settings, compare their vectors, then take the 8-bit model apart."""
    folder = ModelSettings(path=model).folder
    timing = workloads.content_segments(folder, tokens=tokens)
    pool = workloads.content_segments(folder, count=segments * 10)[::10]
    return attempt([f"speed.{name}" for name in _SETTINGS], lambda: _settings(folder, timing, pool, rounds)) | attempt(
        ["error.all"], lambda: _parts(folder, pool)
    )


def _settings(folder: Path, timing: Sequence[Ids], judged: Sequence[Ids], rounds: int) -> Figures:
    """Tokens a second, how many times as fast as fp32, and cosines to it, of each setting."""
    engines = {name: Engine(folder, name.partition("_")[0], window) for name, window in _SETTINGS.items()}
    seconds = raced({name: timed(partial(own.embed, timing)) for name, own in engines.items()}, rounds)
    expected = engines["fp32"].embed(judged)
    counted = sum(map(len, timing))
    figures: dict[str, Outcome] = {}
    for name, engine in engines.items():
        found = cosines(engine.embed(judged), expected)
        figures[f"speed.{name}"] = summarise([counted / each for each in seconds[name]], "tokens/s")
        figures[f"x_fp32.{name}"] = ratio(seconds["fp32"], seconds[name])
        figures[f"cos_mean.{name}"] = summarise(found, "", np.mean)
        figures[f"cos_min.{name}"] = Figure(float(found.min()), "", n=len(found))
    return figures


@dataclass(frozen=True, slots=True)
class Parts:
    """What is not in fp32."""

    weights: bool = False
    activations: bool = False
    embeddings: bool = False
    states: bool = False
    """States, queries, keys, values and contexts in bfloat16."""
    attention: bool = False
    """As the native kernels compute it: queries, keys, values and weights in bytes, but for a segment's ends."""


def _parts(folder: Path, segments: Sequence[Ids]) -> Figures:
    """One less the mean cosine, in millionths, with each part alone and with all of them."""
    model = TakenApart(folder)
    expected = model.vectors(segments, Parts())
    names = [part.name for part in fields(Parts)]
    chosen = {name: replace(Parts(), **{name: True}) for name in names}
    chosen["all"] = Parts(**dict.fromkeys(names, True))
    return {
        f"error.{name}": summarise(1e6 * (1 - cosines(model.vectors(segments, parts), expected)), "ppm", np.mean)
        for name, parts in chosen.items()
    }


class TakenApart:
    """A model and its 8-bit form side by side, in plain PyTorch: any part of the one within the other."""

    def __init__(self, folder: Path) -> None:
        checkpoint, self._shape = Checkpoint(folder), read_architecture(folder)
        with torch.no_grad():
            self._embeddings = read_embeddings(checkpoint, self._shape, Tensor.float)
            self._layers = [read_layer(checkpoint, self._shape, i, Tensor.float) for i in range(self._shape.layers)]
            tables, *self._eight = quantise(checkpoint, self._shape, calibration_ids(folder, self._shape))
        assert isinstance(tables, Embeddings8)
        self._tables = tables

    def vectors(self, segments: Sequence[Ids], parts: Parts) -> Vectors:
        """Segments' mean-pooled vectors, float32 (segments, hidden)."""
        with torch.inference_mode():
            states = [self._state(torch.from_numpy(ids).long(), parts) for ids in segments]
        return pool(torch.cat(states), list(map(len, segments)), "mean")

    def _state(self, ids: Tensor, parts: Parts) -> Tensor:
        def kept(x: Tensor) -> Tensor:
            return x.bfloat16().float() if parts.states else x

        words = self._embeddings.words[ids]
        if parts.embeddings:
            words = self._tables.words[ids] * self._tables.scale[ids, None]
        state = kept(self._embeddings.norm(words + self._embeddings.positions[: len(ids)]))
        for layer, eight in zip(self._layers, self._eight, strict=True):
            assert not isinstance(eight, Embeddings8)
            qkv = kept(_apply(layer.qkv, eight.qkv, state, SIGNED, parts))
            attend = in_bytes.attention if parts.attention else attention
            context = kept(attend(qkv, (len(ids),), self._shape.heads, 0).float())
            state = kept(layer.mix_norm(_apply(layer.mix, eight.mix, context, SIGNED, parts) + state))
            wide = activate(_apply(layer.up, eight.up, state, SIGNED, parts), self._shape.activation)
            state = kept(layer.down_norm(_apply(layer.down, eight.down, wide, POSITIVE, parts) + state))
        return state


def _apply(linear: Linear, eight: QuantisedLinear, x: Tensor, zero: int, parts: Parts) -> Tensor:
    """A linear map whose weights and inputs are what is left of them after 8 bits, or the original's."""
    columns = eight.columns.long()
    if parts.activations:
        rows = Reference().quantise(x, Quantiser(eight.columns, eight.factor, zero))
        x = (rows.q.float() - zero) * rows.scale[:, None] / torch.where(eight.factor > 0, eight.factor, 1)
        x[:, columns] = rows.outliers.float()
    if not parts.weights:
        return linear(x)
    weight = eight.weight * eight.scale[:, None] * eight.factor
    weight[:, columns] = eight.outlier_weight.float().t()
    return Linear(weight, eight.bias)(x)
