"""Loads the tokenizer of a model folder."""

from pathlib import Path

from chunking.errors import TokenizerError
from chunking.fast import FastTokenizer
from chunking.pieces import PieceTokenizer
from chunking.tokenizer import Tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a folder in Hugging Face's layout.

    A SentencePiece model of a known family is read by `sentencepiece`, anything else from `tokenizer.json`.

    Raises:
        TokenizerError: the folder has neither, or the file cannot be read.
    """
    if pieces := PieceTokenizer.load(folder):
        return pieces
    if (folder / "tokenizer.json").exists():
        return FastTokenizer.load(folder)
    raise TokenizerError(f"{folder}: no tokenizer.json, and no SentencePiece model of a known family")
