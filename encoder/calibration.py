"""The calibration text for quantising, as a model's token ids."""

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from encoder.families import Architecture

_TOKENIZERS = ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
_RANDOM_SEGMENTS = 8


def calibration_ids(folder: Path, shape: Architecture) -> list[Tensor]:
    """One segment per paragraph of the shipped text: prose of old books in seven languages, program text, a log.

    A folder without a tokenizer (random weights, in tests and benchmarks) gets random ids with a fixed seed.
    """
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        draw = torch.Generator().manual_seed(0)
        size = (_RANDOM_SEGMENTS, shape.max_tokens // 4)
        return list(torch.randint(shape.vocabulary, size, generator=draw))
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes a second, and a model is quantised once

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    text = resources.files("encoder").joinpath("calibration.txt").read_text("utf-8")
    paragraphs = text.strip().split("\n\n")
    return [
        torch.tensor(tokenizer(paragraph, truncation=True, max_length=shape.max_tokens)["input_ids"])
        for paragraph in paragraphs
    ]
