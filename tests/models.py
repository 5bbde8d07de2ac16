"""Model folders for tests: real layers with heads of random weights, where no trained head can be had."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors.torch import save_file

from encoder.folder import describe

ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
_WEIGHTS = {"model.safetensors", "fetched.json", "modules.json", "config.json"}


def tokens_model(base: Path, folder: Path, labels: Sequence[str] = ENTITIES) -> Path:
    """A token classifier on a folder's layers, its head random."""
    return _with_head(base, folder, transformers.AutoModelForTokenClassification, labels, {})


def sequence_model(base: Path, folder: Path, labels: Sequence[str], *, multi_label: bool = False) -> Path:
    """A text classifier on a folder's layers, its head random."""
    problem = "multi_label_classification" if multi_label else "single_label_classification"
    return _with_head(base, folder, transformers.AutoModelForSequenceClassification, labels, {"problem_type": problem})


def head_alone(trunk: Path, folder: Path, labels: Sequence[str], task: str = "classify", **facts: object) -> Path:
    """A folder of a random head alone, on the layers of `trunk`."""
    described = describe(trunk)
    folder.mkdir(parents=True)
    torch.manual_seed(len(labels))
    hidden = described.config["hidden_size"]
    save_file(
        {"weight": torch.randn(len(labels), hidden), "bias": torch.randn(len(labels))}, folder / "head.safetensors"
    )
    manifest = {
        "version": "1.2.3",
        "task": task,
        "labels": list(labels),
        "trunk": {"name": described.name, "digest": described.digest},
        **facts,
    }
    (folder / "octavo.json").write_text(json.dumps(manifest))
    return folder


def _with_head(base: Path, folder: Path, kind: type, labels: Sequence[str], settings: dict[str, str]) -> Path:
    torch.manual_seed(len(labels))
    names = dict(enumerate(labels))
    config = transformers.AutoConfig.from_pretrained(base, id2label=names, num_labels=len(labels), **settings)
    made = kind.from_pretrained(base, config=config)  # type: ignore[attr-defined]
    for name, weight in made.named_parameters():
        if name.startswith("classifier"):  # transformers' own beginning gives all labels about the same score
            torch.nn.init.normal_(weight, std=0.5)
    made.save_pretrained(folder)
    for file in base.iterdir():
        if file.is_file() and file.name not in _WEIGHTS:
            shutil.copy(file, folder)
    return folder


ENTITY_LABELS = ("O", "B-PERSON", "I-PERSON", "B-PLACE", "I-PLACE")
CLASSES = ("trade", "weather", "ships")

Kind = Literal["tokens", "sequence", "vocabulary"]
_MODELS: dict[Kind, Any] = {
    "tokens": transformers.BertForTokenClassification,
    "sequence": transformers.BertForSequenceClassification,
    "vocabulary": transformers.BertForMaskedLM,
}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def write_model(
    folder: Path,
    kind: Kind,
    tokenizer: Path,
    labels: Sequence[str] = (),
    *,
    multi_label: bool = False,
    seed: int = 0,
    **sizes: Any,
) -> Path:
    """Write a BERT with a head of this kind and random weights, and return its folder.

    Words have a large part in their states, so labels differ from word to word and from text to text.

    Args:
        folder: where to write it; its name is the model's.
        kind: tokens, sequence or vocabulary.
        tokenizer: the folder of a BERT model, whose tokenizer it gets.
        labels: of the head's outputs.
        multi_label: a text may have any number of the labels.
        seed: of the weights.
        sizes: fields of the configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in (tokenizer / name for name in _TOKENIZER):
        if file.is_file():
            shutil.copy(file, folder)
    named: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    problem: dict[str, Any] = {"problem_type": "multi_label_classification"} if multi_label else {}
    words = transformers.AutoConfig.from_pretrained(tokenizer).vocab_size
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=words, **(named if labels else {}), **problem, **(small | sizes))
    torch.manual_seed(seed)
    model = _MODELS[kind](config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape) * (1.0 if "embeddings" in name else 0.2))
    model.save_pretrained(folder)
    return folder
