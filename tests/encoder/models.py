"""What the encoder's tests share: families with random weights, real folders, token ids."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray

import encoder
from encoder import Encoder
from server.config.folders import cache_home

Make = Callable[..., Path]

CLASSES: dict[str, tuple[Any, Any]] = {
    "bert": (transformers.BertConfig, transformers.BertModel),
    "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel),
    "camembert": (transformers.CamembertConfig, transformers.CamembertModel),
}
FAMILIES = tuple(CLASSES)


def real_model(name: str) -> Path:
    """A fetched model's folder; skips where it was not fetched."""
    folder = cache_home() / "models" / name
    if not (folder / "config.json").is_file():
        pytest.skip(f"the model {name} was not fetched (make setup)")
    return folder


def random_ids(length: int, vocabulary: int = 300, seed: int = 0) -> NDArray[np.int64]:
    """Token ids, none of them padding (whose position differs in RoBERTa, and which no text contains)."""
    return np.random.default_rng([seed, length]).integers(2, vocabulary, length)


@cache
def loaded(folder: Path, scheme: str, isa: str = "auto") -> Encoder:
    """A model on the CPU, loaded once for all tests: quantising takes seconds."""
    return encoder.load(folder, scheme=scheme, device="cpu", isa=isa)
