"""SentencePiece models, run by `sentencepiece`, which is 4 times as fast as the same model in `tokenizers`.

The families below number pieces as fairseq did, special tokens first, so every id except the unknown one is shifted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from chunking.errors import TokenizerError
from chunking.files import read_object
from chunking.regions import encoded
from chunking.tokenizer import Frame, Ids, Offsets, Tokens, follows_no_space


@dataclass(frozen=True, slots=True)
class Numbering:
    """How a family numbers special tokens and SentencePiece's pieces."""

    shift: int
    start: int
    end: int
    unknown: int


FAMILIES = {
    "XLMRobertaTokenizer": Numbering(shift=1, start=0, end=2, unknown=3),
    "CamembertTokenizer": Numbering(shift=4, start=5, end=6, unknown=3),
}
FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")


class PieceTokenizer:
    """A SentencePiece model with a family's numbering."""

    def __init__(self, model: bytes, numbering: Numbering) -> None:
        self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._unknown = self._processor.unk_id()
        self._numbering = numbering
        self.library = f"sentencepiece {sentencepiece.__version__}"
        self.digest = hashlib.sha256(f"sentencepiece {numbering}\0".encode() + model).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the model, and its family from `tokenizer_config.json`; None if there is no model of a known family.

        Raises:
            TokenizerError: the file is not a SentencePiece model.
        """
        path = next((folder / file for file in FILES if (folder / file).exists()), None)
        family = str(read_object(folder / "tokenizer_config.json").get("tokenizer_class")).removesuffix("Fast")
        if path is None or family not in FAMILIES:
            return None
        try:
            return cls(path.read_bytes(), FAMILIES[family])
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"{path}: not a readable SentencePiece model") from error

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """See `Tokenizer.encode`."""
        return [self._encode(text) for text in texts]

    def frame(self, prefix: str = "") -> Frame:
        """See `Tokenizer.frame`."""
        start: Ids = np.array([self._numbering.start], np.int32)
        end: Ids = np.array([self._numbering.end], np.int32)
        return Frame(np.concatenate([start, self._encode(prefix).ids]), end)

    def pair_frame(self, first: str) -> Frame:
        """See `Tokenizer.pair_frame`."""
        start, end = self._numbering.start, self._numbering.end
        head = np.concatenate([[start], self._encode(first).ids, [end, end]])
        return Frame(head.astype(np.int32), np.array([end], np.int32))

    def continues_word(self, ids: Ids, starts: Offsets, text: str) -> NDArray[np.bool_]:
        """See `Tokenizer.continues_word`."""
        known: NDArray[np.bool_] = ids != self._numbering.unknown
        return follows_no_space(starts, text) & known

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        numbering = self._numbering
        special = {*range(numbering.shift), numbering.start, numbering.end, numbering.unknown}
        text: str = self._processor.decode([i - numbering.shift for i in ids if i not in special])
        return text

    @cached_property
    def vocabulary(self) -> Sequence[str]:
        """See `Tokenizer.vocabulary`; empty for ids that are no piece's."""
        pieces = ("" for _ in range(self._numbering.shift))
        return (*pieces, *self._processor.id_to_piece(list(range(self._processor.get_piece_size()))))

    def _encode(self, text: str) -> Tokens:
        encoded(text)  # the processor cannot read a lone surrogate
        mapping = self._processor.encode(text, return_type="offset_mapping")
        pieces = np.array(mapping["ids"], np.int32)
        ids: Ids = np.where(pieces == self._unknown, self._numbering.unknown, pieces + self._numbering.shift)
        offsets = np.array(mapping["offsets"], np.int64).reshape(-1, 2)
        return Tokens(ids.astype(np.int32), offsets[:, 0], offsets[:, 1])
