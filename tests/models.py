"""Model folders for tests: real layers with heads of random weights, where no trained head can be had."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

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
