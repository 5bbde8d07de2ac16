"""Which tokenizer a model's folder holds."""

from pathlib import Path

from chunking.errors import TokenizerError
from chunking.fast import FastTokenizer
from chunking.pieces import PieceTokenizer
from chunking.tokenizer import Tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder.

    A SentencePiece model whose numbering is known goes through ``sentencepiece``, all else through ``tokenizer.json``.

    Raises:
        TokenizerError: the folder has neither, or the file cannot be read.
    """
    if pieces := PieceTokenizer.load(folder):
        return pieces
    if (folder / "tokenizer.json").exists():
        return FastTokenizer.load(folder)
    raise TokenizerError(f"{folder}: no tokenizer.json, and no SentencePiece model of a family that is known here")
