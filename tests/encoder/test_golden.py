"""Every layer's state equals transformers' own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from tests.encoder.models import FAMILIES, Make, loaded, random_ids

SCHEMES = {"fp32": 2e-5, "bf16": 0.08, "int8": 0.08}
"""Largest error of a state, over the states' largest number."""


def golden(folder: Path, ids: list[int]) -> tuple[Tensor, ...]:
    """Transformers' hidden states, embeddings first, each (tokens, hidden)."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return tuple(state[0] for state in output.hidden_states)


def assert_same_layers(folder: Path, lengths: list[int], scheme: str, tolerance: float) -> None:
    """Hold each layer, entered from our own state below, to transformers'; segments laid end to end."""
    model = loaded(folder, scheme)
    segments = [random_ids(length, model.architecture.vocabulary) for length in lengths]
    expected = [torch.cat(states) for states in zip(*(golden(folder, list(ids)) for ids in segments), strict=True)]
    assert len(expected) == model.layers + 1
    batch = model.batch(segments)
    for layer, reference in enumerate(expected):
        batch = model.run(batch, max(0, layer - 1), layer)
        assert batch.state is not None
        error = (batch.state.float() - reference).abs().max() / reference.abs().max()
        assert error < tolerance, f"layer {layer}: {error}"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_equal_transformers_on_random_weights(make_model: Make, family: str, scheme: str) -> None:
    assert_same_layers(make_model(family), [1, 2, 33, 512], scheme, SCHEMES[scheme])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("window", [0, 16])
def test_pairs_equal_transformers_on_random_weights(make_model: Make, scheme: str, window: int) -> None:
    """The second text of a pair has a token type of its own, in segments beside some that are no pairs."""
    folder = make_model()
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (folder / "config.json").write_text(json.dumps(config))
    encoder = loaded(folder, scheme)
    segments, seconds = [random_ids(length) for length in (40, 512, 7, 300)], (11, 200, 0, 299)
    batch = encoder.run(encoder.batch(segments, window, seconds), 0, 0)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    states = []
    for ids, second in zip(segments, seconds, strict=True):
        types = torch.arange(len(ids))[None] >= (second or len(ids))
        with torch.no_grad():
            output = model(input_ids=torch.tensor(ids)[None], token_type_ids=types.long(), output_hidden_states=True)
        states.append([state[0] for state in output.hidden_states])
    expected = torch.cat([each[0] for each in states])
    assert batch.state is not None
    assert (batch.state.float() - expected).abs().max() / expected.abs().max() < SCHEMES[scheme]
    if not window:
        state = encoder.run(batch, 0, encoder.layers).state
        expected = torch.cat([each[-1] for each in states])
        assert state is not None
        error = (state.float() - expected).abs().max() / expected.abs().max()
        assert error < (1 if scheme == "fp32" else encoder.layers) * SCHEMES[scheme]


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations_equal_transformers_on_random_weights(make_model: Make, activation: str) -> None:
    assert_same_layers(make_model(hidden_act=activation), [33], "fp32", SCHEMES["fp32"])
    assert_same_layers(make_model(hidden_act=activation), [33], "int8", SCHEMES["int8"])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("model", ["minilm", "splade_tiny"])
def test_layers_equal_transformers_on_real_models(model: str, scheme: str, request: pytest.FixtureRequest) -> None:
    assert_same_layers(request.getfixturevalue(model), [5, 301], scheme, SCHEMES[scheme])


def test_layers_equal_transformers_on_multilingual_e5(e5_small: Path) -> None:
    assert_same_layers(e5_small, [77], "fp32", SCHEMES["fp32"])


def test_a_checkpoint_with_a_head_and_old_names_of_norms_is_read(make_model: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = make_model()
    tensors = load_file(plain / "model.safetensors")
    old = {".weight": ".gamma", ".bias": ".beta"}
    renamed = {}
    for name, tensor in tensors.items():
        stem, dot, kind = name.rpartition(".")
        renamed[f"bert.{stem}{old[dot + kind] if stem.endswith('LayerNorm') else dot + kind}"] = tensor
    save_file({**renamed, "cls.predictions.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((plain / "config.json").read_bytes())
    ids = [random_ids(21)]
    states = []
    for folder in (plain, tmp_path):
        model = loaded(folder, "fp32")
        state = model.run(model.batch(ids), 0, model.layers).state
        assert state is not None
        states.append(state)
    assert torch.equal(*states)


@pytest.mark.timeout(120)
def test_segment_vectors_equal_sentence_transformers_from_1_to_510_tokens(minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from encoder.heads.pooling import pool

    theirs = SentenceTransformer(str(minilm), device="cpu")
    ours = loaded(minilm, "fp32")
    worst = 0.0
    for length in (1, 2, 3, 8, 31, 64, 127, 254, 255, 300, 453, 509, 510):
        ids = np.concatenate([[101], random_ids(length, 30000), [102]])
        there = torch.tensor(ids)[None]
        features = {"input_ids": there, "attention_mask": torch.ones_like(there)}
        with torch.no_grad():
            expected = theirs(features)["sentence_embedding"][0].numpy()
        state = ours.run(ours.batch([ids]), 0, ours.layers).state
        assert state is not None
        vector = pool(state, [length + 2], "mean")[0]
        worst = max(worst, float(np.abs(vector / np.linalg.norm(vector) - expected).max()))
    assert worst <= 1e-5
