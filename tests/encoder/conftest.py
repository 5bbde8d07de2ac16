"""Models to test on: small random ones of every family, and the real ones where they were fetched."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.encoder.models import CLASSES, Make, real_model


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Write a model with random weights, whose spread is large enough for every layer to matter."""

    def make(family: str = "bert", **changes: Any) -> Path:
        config_class, model_class = CLASSES[family]
        sizes = {
            "vocab_size": 300,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "max_position_embeddings": 512 if family == "bert" else 514,
            "type_vocab_size": 2 if family == "bert" else 1,
            "pad_token_id": 0 if family == "bert" else 1,
        }
        torch.manual_seed(0)
        model = model_class(config_class(**(sizes | changes)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.1 + (0.7 if parameter.dim() == 1 else 0))
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def small_bert(make_model: Make) -> Path:
    return make_model()


@pytest.fixture(scope="session")
def minilm() -> Path:
    return real_model("all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def splade_tiny() -> Path:
    return real_model("splade-tiny")


@pytest.fixture(scope="session")
def e5_small() -> Path:
    return real_model("multilingual-e5-small")
