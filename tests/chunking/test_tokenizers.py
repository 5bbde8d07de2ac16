"""Tokenizers: ids as transformers has them, and no surprise from what a file says."""

import io
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from transformers import AutoTokenizer, CamembertTokenizer

from benchmarks.texts import KINDS, sotu
from chunking import Cutting, TextError, Tokenizer, TokenizerError, load_tokenizer, read, regions
from tests.chunking.conftest import model_folder

TEXT = "It ends. [SEP] 각각 naïve \0 한국어 终了。 ﬁ ½ e\u0301"


def plain_hugging_face(folder: Path) -> Any:
    """What transformers makes of the folder, without truncation, padding and specials in texts."""
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def test_truncation_and_padding_in_the_file_are_ignored(minilm: Tokenizer) -> None:
    specification = json.loads((model_folder("all-MiniLM-L6-v2") / "tokenizer.json").read_text())
    assert specification["truncation"]["max_length"] == 128  # the trap is there
    assert specification["padding"] is not None
    assert len(minilm.encode(["word " * 1000])[0]) == 1000
    assert len(minilm.encode(["word"])[0]) == 1


def test_wordpiece_ids_are_transformers(minilm: Tokenizer) -> None:
    theirs = plain_hugging_face(model_folder("all-MiniLM-L6-v2"))
    for text in (TEXT, sotu()[3]):
        (ours,) = minilm.encode([text])
        encoding = theirs.encode(text, add_special_tokens=False)
        assert ours.ids.tolist() == encoding.ids
        assert list(zip(ours.starts, ours.ends, strict=True)) == encoding.offsets


def test_sentencepiece_ids_are_hugging_faces_region_by_region_except_ties(e5_folder: Path, e5: Tokenizer) -> None:
    """Two ways to cut a stretch may score the same; which wins hangs on the order of float additions."""
    theirs = plain_hugging_face(e5_folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(e5_folder / "sentencepiece.bpe.model"))

    def score(ids: list[int]) -> float:
        return sum(pieces.get_score(one - 1) for one in ids if one != 3)

    seen: dict[str, int] = {}
    ties: dict[str, int] = {}
    for kind, make in KINDS.items():
        for region in regions(make(random.Random(5), 40_000 if kind == "chinese" else 100_000)):
            (ours,) = e5.encode([region.text])
            expected = theirs.encode(region.text, add_special_tokens=False).ids
            seen[kind] = seen.get(kind, 0) + 1
            if ours.ids.tolist() != expected:
                assert score(ours.ids.tolist()) == pytest.approx(score(expected), rel=1e-6)
                ties[kind] = ties.get(kind, 0) + 1
    assert min(seen.values()) > 5
    # Numbers and rulers of dashes have many equal cuttings; prose has none.
    assert set(ties) <= {"logs", "python"}
    assert sum(ties.values()) < sum(seen.values()) / 5


@pytest.mark.parametrize("text", [TEXT, "\0", "😀", " a  b ", "\ufeffx", "漢" * 5000])
def test_sentencepiece_ids_of_odd_texts_are_hugging_faces(e5_folder: Path, e5: Tokenizer, text: str) -> None:
    (ours,) = e5.encode([text])
    assert ours.ids.tolist() == plain_hugging_face(e5_folder).encode(text, add_special_tokens=False).ids


def test_unigram_in_a_tokenizer_json_is_the_same_and_finds_no_special_in_a_text(
    e5_folder: Path, e5: Tokenizer, tmp_path: Path
) -> None:
    plain_hugging_face(e5_folder).save(str(tmp_path / "tokenizer.json"))
    fast = load_tokenizer(tmp_path)
    assert type(fast) is not type(e5)
    for text in (TEXT, "a <s> b</s> <unk> <mask><pad>"):
        assert fast.encode([text])[0].ids.tolist() == e5.encode([text])[0].ids.tolist()
    assert fast.frame("query: ").head.tolist() == e5.frame("query: ").head.tolist()


def test_frames_are_what_transformers_puts_around(tokenizer: Tokenizer, e5_folder: Path) -> None:
    folder = e5_folder if tokenizer.frame().head[0] == 0 else model_folder("all-MiniLM-L6-v2")
    theirs = AutoTokenizer.from_pretrained(folder)
    for prefix in ("", "query: "):
        (tokens,) = tokenizer.encode(["some words"])
        assert tokenizer.frame(prefix).around(tokens.ids).tolist() == theirs(f"{prefix}some words").input_ids


def test_pairs_are_framed_as_by_transformers(tokenizer: Tokenizer, e5_folder: Path) -> None:
    is_bert = bool(tokenizer.frame().head[0])
    theirs = AutoTokenizer.from_pretrained(model_folder("all-MiniLM-L6-v2") if is_bert else e5_folder)
    for first in ("Where is it?", "", "日本語 [SEP]</s> naïve"):
        frame, (tokens,) = tokenizer.pair_frame(first), tokenizer.encode(["some words"])
        expected = theirs("X", "some words")
        assert frame.tail.tolist() == expected.input_ids[-len(frame.tail) :]
        if "[SEP]" not in first:  # which is ordinary text here
            expected = theirs(first, "some words")
            assert frame.around(tokens.ids).tolist() == expected.input_ids
            assert frame.typed is is_bert
            if is_bert:
                assert expected.token_type_ids.index(1) == len(frame.head)


def train_pieces(folder: Path, tokenizer_class: str) -> Path:
    """A small SentencePiece model of real text."""
    model = io.BytesIO()
    lines = (line for text in sotu()[:20] for line in text.split("\n") if line)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=1000, minloglevel=2
    )
    folder.mkdir(exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class}))
    return folder


def test_camembert_numbers_its_pieces_its_own_way(tmp_path: Path) -> None:
    folder = train_pieces(tmp_path, "CamembertTokenizer")
    ours, theirs = load_tokenizer(folder), CamembertTokenizer.from_pretrained(folder)
    text = "The state of the union is 漢 what it was, said the President."
    (tokens,) = ours.encode([text])
    assert 3 in tokens.ids
    assert ours.frame().around(tokens.ids).tolist() == theirs(text).input_ids


@pytest.fixture
def byte_level(tmp_path: Path) -> Path:
    """A byte-level BPE of real text, as RoBERTa has: several tokens may share a code point."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(sotu()[:20], vocab_size=800, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_bytes_of_one_code_point_stay_together(byte_level: Path) -> None:
    tokenizer = load_tokenizer(byte_level)
    text = "😀漢" * 200
    found = [each for step in read(text, tokenizer, Cutting("fixed", 32, 1)) for each in step]
    assert sum(each.tokens for each in found) == len(text.encode())
    assert all(len(text[each.start : each.end].encode()) == each.tokens for each in found)


def test_a_special_that_the_file_does_not_mark_is_text_all_the_same(byte_level: Path) -> None:
    path = byte_level / "tokenizer.json"
    specification = json.loads(path.read_text())
    for token in specification["added_tokens"]:
        token["special"] = False
    path.write_text(json.dumps(specification))
    assert 0 in load_tokenizer(byte_level).encode(["a <s> b"])[0].ids  # nobody calls it special: a word like others
    (byte_level / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    assert 0 not in load_tokenizer(byte_level).encode(["a <s> b"])[0].ids


def test_the_digest_tells_what_decides_ids(byte_level: Path, tmp_path: Path) -> None:
    path = byte_level / "tokenizer.json"
    before = load_tokenizer(byte_level).digest
    specification = json.loads(path.read_text())
    path.write_text(json.dumps(specification | {"truncation": None}, indent=3))
    assert load_tokenizer(byte_level).digest == before
    specification["model"]["merges"].pop()
    path.write_text(json.dumps(specification))
    assert load_tokenizer(byte_level).digest != before
    one, other = train_pieces(tmp_path / "a", "CamembertTokenizer"), train_pieces(tmp_path / "b", "XLMRobertaTokenizer")
    assert load_tokenizer(one).digest != load_tokenizer(other).digest


def test_threads_may_share_one(tokenizer: Tokenizer) -> None:
    texts = sotu()[:8]
    expected = [tokens.ids.tolist() for tokens in tokenizer.encode(texts)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: tokenizer.encode([text])[0].ids.tolist(), texts * 4))
    assert found == expected * 4


def test_other_threads_run_while_it_works(tokenizer: Tokenizer) -> None:
    """One call that held the GIL would let the counter tick at most once in between."""
    text = " ".join(sotu()[:30])
    ticks, stop = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.wait(0.001):
            ticks += 1

    counter = threading.Thread(target=tick)
    counter.start()
    before = ticks
    tokenizer.encode([text])
    during = ticks - before
    stop.set()
    counter.join()
    assert during >= 5


def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match="code point 3"):
        tokenizer.encode(["fine", "abc\ud800"])


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "no tokenizer.json"),
        ({"tokenizer.json": "{"}, "not readable as JSON"),
        ({"tokenizer.json": "[]"}, "not a JSON object"),
        ({"tokenizer.json": "{}"}, "not a readable tokenizer"),
        ({"tokenizer.json": '{"added_tokens": [], "post_processor": null, "model": {}}'}, "not a readable tokenizer"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{"}, "tokenizer_config.json: not readable"),
        (
            {"sentencepiece.bpe.model": "x", "tokenizer_config.json": '{"tokenizer_class": "XLMRobertaTokenizerFast"}'},
            "not a readable SentencePiece model",
        ),
        ({"spiece.model": "x", "tokenizer_config.json": '{"tokenizer_class": "T5Tokenizer"}'}, "no tokenizer.json"),
    ],
)
def test_a_folder_that_cannot_be_read_says_which_file(tmp_path: Path, files: dict[str, str], told: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=told):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path / "missing")


def test_a_truncated_model_is_refused(e5_folder: Path, tmp_path: Path) -> None:
    model = (e5_folder / "sentencepiece.bpe.model").read_bytes()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model[: len(model) // 2])
    (tmp_path / "tokenizer_config.json").write_text((e5_folder / "tokenizer_config.json").read_text())
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path)


def test_ids_are_32_bit_and_no_tokens_are_none(tokenizer: Tokenizer) -> None:
    empty, some = tokenizer.encode(["", "words"])
    assert len(empty) == 0
    assert empty.ids.dtype == np.int32
    assert empty.starts.dtype == np.int64
    assert some.ids.dtype == np.int32
    assert some.ends.dtype == np.int64
