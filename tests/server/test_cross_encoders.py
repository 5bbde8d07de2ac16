"""Cross-encoders: query and passage in one segment, scored as transformers does. All are of random weights."""

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from server.config.folders import cache_home
from server.config.schema import CacheSettings, ModelSettings
from server.inference.cache_view import layout_fields
from tests.server.helpers import (
    E5,
    MINILM,
    SOON,
    TINY,
    WORDS,
    Server,
    analyze,
    document,
    model,
    prose,
    refused,
    serving,
    settings,
    stream,
)

QUERY = "Who keeps the light house in the winter?"
CROSS_ENCODER = pb.RANK_METHOD_CROSS_ENCODER
FAMILIES = {
    "bert": (MINILM, transformers.BertConfig, transformers.BertForSequenceClassification),
    "xlm-roberta": (E5, transformers.XLMRobertaConfig, transformers.XLMRobertaForSequenceClassification),
}
TEXTS = [" ".join(WORDS[(i * i + count) % len(WORDS)] for i in range(count)) for count in (1, 2, 17, 100, 255, 400)]
UNITS: dict[int, tuple[str, int]] = {  # an encoding, and bytes of a unit
    pb.OFFSET_UNIT_CODE_POINT: ("utf-32-le", 4),
    pb.OFFSET_UNIT_UTF16: ("utf-16-le", 2),
    pb.OFFSET_UNIT_UTF8: ("utf-8", 1),
}
LONG = f"{prose(700, seed=1)} 日本の灯台守 حارس المنارة 👩‍👩‍👧‍👦 {prose(600, seed=2)}"


def write(folder: Path, family: str) -> Path:
    """A cross-encoder with random weights, whose spread is large enough for every layer to matter."""
    packaged, config_class, model_class = FAMILIES[family]
    source = cache_home() / "models" / packaged
    is_bert = family == "bert"
    config = config_class(
        vocab_size=json.loads((source / "config.json").read_text())["vocab_size"],
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=512 if is_bert else 514,
        type_vocab_size=2 if is_bert else 1,
        pad_token_id=0 if is_bert else 1,
        id2label={0: "LABEL_0"},
    )
    torch.manual_seed(0)
    network = model_class(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            spread = 1 if name.startswith("classifier") else 0.2
            parameter.copy_(torch.randn(parameter.shape) * spread + (0.7 if parameter.dim() == 1 else 0))
    network.save_pretrained(folder)
    for file in source.iterdir():
        if file.name.startswith(("tokenizer", "special", "vocab", "sentencepiece")):
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def folders(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    assert models
    return {family: write(tmp_path_factory.mktemp("folder") / f"cross-{family}", family) for family in FAMILIES}


def served(folders: dict[str, Path]) -> list[ModelSettings]:
    return [model(TINY), *(model(str(folder)) for folder in folders.values())]


@pytest.fixture(scope="module")
def crossing(folders: dict[str, Path]) -> Iterator[Server]:
    with serving(settings(*served(folders))) as server:
        yield server


@cache
def peer(folder: Path) -> tuple[Any, Any]:
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return network, transformers.AutoTokenizer.from_pretrained(folder)


def frame_of(tokenizer: Any, query: str) -> int:
    """Tokens of a pair beside the passage's."""
    return len(tokenizer(query, "word").input_ids) - len(tokenizer.tokenize("word"))


def logits(folder: Path, passages: Sequence[str], query: str = QUERY) -> NDArray[Any]:
    network, tokenizer = peer(folder)
    found = []
    for passage in passages:
        pair = tokenizer(query, passage, return_tensors="pt")
        assert pair.input_ids.shape[1] <= 512
        with torch.no_grad():
            found.append(network(**pair).logits.item())
    return np.array(found)


def rank(server: Server, texts: Sequence[str], name: str, query: str = QUERY, **options: Any) -> pb.RankResponse:
    request = pb.RankRequest(
        documents=[document(text) for text in texts],
        options=pb.CallOptions(model=name, **options),
        rank=pb.RankOptions(query=query, passages=100),
    )
    response: pb.RankResponse = server.inference.Rank(request, timeout=SOON)
    return response


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_transformers_logits_on_random_weights(
    crossing: Server, folders: dict[str, Path], family: str
) -> None:
    """Up to 512 tokens with the query."""
    _, tokenizer = peer(folders[family])
    room = 512 - frame_of(tokenizer, QUERY)
    words = [word for word in WORDS if len(tokenizer.tokenize(word)) == 1]
    full = " ".join(words[i * i % len(words)] for i in range(room))
    response = rank(
        crossing, [*TEXTS, full], f"cross-{family}", segmentation=pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED)
    )
    scores = {each.index: each.ranking.score for each in response.documents}
    expected = logits(folders[family], [*TEXTS, full])
    assert np.ptp(expected) > 0.1
    assert np.abs(np.array([scores[i] for i in range(len(TEXTS) + 1)]) - expected).max() < 1e-4
    assert [each.index for each in response.documents] == np.argsort(-expected).tolist()
    (whole,) = (each.ranking.passages for each in response.documents if each.index == len(TEXTS))
    assert len(whole) == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("unit", UNITS)
def test_a_long_document_is_cut_so_that_query_and_passage_fit_on_random_weights(
    crossing: Server, folders: dict[str, Path], family: str, unit: int
) -> None:
    for query in (QUERY, " ".join(WORDS[i % len(WORDS)] for i in range(120))):
        response = rank(crossing, [LONG], f"cross-{family}", query, offset_unit=unit)
        (ranked,) = response.documents
        encoding, width = UNITS[unit]
        raw = LONG.encode(encoding)
        passages = sorted(ranked.ranking.passages, key=lambda passage: passage.segment_index)
        texts = [raw[width * each.span.start : width * each.span.end].decode(encoding) for each in passages]
        assert "".join(texts) == LONG
        assert len(texts) > 2
        expected = logits(folders[family], texts, query)
        assert np.abs(np.array([each.score for each in passages]) - expected).max() < 1e-4
        assert ranked.ranking.score == max(each.score for each in passages)
        _, tokenizer = peer(folders[family])
        usage = response.info.usage
        frame = frame_of(tokenizer, query)
        assert usage.processed_tokens == usage.tokens + len(texts) * frame == usage.charged_tokens


def test_each_query_is_a_pass_of_its_own_in_every_way_to_ask_on_random_weights(crossing: Server) -> None:
    queries = {"a": QUERY, "b": "bread and water", "c": QUERY}
    tasks = [
        pb.Task(name=name, rank=pb.RankOptions(query=query, method=CROSS_ENCODER, passages=2))
        for name, query in queries.items()
    ]
    tasks.append(pb.Task(name="v", embed=pb.EmbedOptions()))
    expected = {
        name: rank(crossing, [LONG], "cross-bert", query).documents[0].ranking for name, query in queries.items()
    }
    analyzed = analyze(crossing, LONG, *tasks, model="cross-bert")
    assert [list(trunk.tasks) for trunk in analyzed.trunks] == [["a", "c"], ["b"], ["v"]]
    for result in analyzed.results[:3]:
        assert result.rank.score == expected[result.name].score
        assert list(result.rank.passages) == list(expected[result.name].passages)[:2]
    *events, last = stream(crossing, LONG, *tasks, model="cross-bert")
    assert list(last.summary.results) == list(analyzed.results)
    best = max(e.segment.results[0].rank.score for e in events if e.HasField("segment") and e.segment.trunk == 1)
    assert best == expected["b"].score
    start = pb.ProcessStart(tasks=tasks, options=pb.CallOptions(model="cross-bert"))
    part = pb.ProcessDocumentsRequest(document=pb.DocumentPart(id="d", text=LONG))
    requests = iter([pb.ProcessDocumentsRequest(start=start), part])
    *_, response = crossing.inference.ProcessDocuments(requests, timeout=SOON)
    assert list(response.result.ok.results) == list(analyzed.results)


def test_pairs_are_cached_by_query_and_passage_on_random_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    kept = settings(*served(folders)).model_copy(update={"cache": CacheSettings(dir=tmp_path / "cache")})
    with serving(kept) as server:
        first = rank(server, [LONG], "cross-bert")
        again = rank(server, [LONG], "cross-bert")
        assert again.documents == first.documents
        assert again.info.usage.computed_tokens == 0
        other = rank(server, [LONG], "cross-bert", "Who keeps the dark house in the winter?")
        assert other.info.usage.cached_tokens == 0
        assert other.documents != first.documents


def test_token_types_are_part_of_a_segments_key() -> None:
    assert layout_fields(5, 2).token_types.tolist() == [0, 0, 1, 1, 1]
    assert layout_fields(5).token_types.tolist() == [0] * 5


def test_eight_bits_order_as_fp32_does_on_random_weights(folders: dict[str, Path], state_home: Path) -> None:
    assert state_home
    texts = [prose(60, seed=i) for i in range(20)]
    found = {}
    for scheme in ("fp32", "int8"):
        with serving(settings(model(str(folders["bert"]), scheme))) as server:
            found[scheme] = {each.index: each.ranking.score for each in rank(server, texts, "cross-bert").documents}
    exact, rough = (np.array([found[scheme][i] for i in range(len(texts))]) for scheme in ("fp32", "int8"))
    assert np.corrcoef(exact, rough)[0, 1] > 0.98


def test_models_say_that_they_are_cross_encoders(crossing: Server) -> None:
    listed = crossing.models.ListModels(models_pb2.ListModelsRequest()).models
    assert {each.ref.name for each in listed if each.cross_encoder} == {"cross-bert", "cross-xlm-roberta"}
    assert len(listed) == 3


def test_wrong_queries_and_models_are_refused(crossing: Server) -> None:
    long = " ".join(["word"] * 260)
    for query in ("", " ", long):
        refusal = refused(lambda: rank(crossing, ["a"], "cross-bert", query))  # noqa: B023
        assert (refusal.code, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, "rank.query")
    wanted = pb.Task(name="r", rank=pb.RankOptions(query=QUERY, method=CROSS_ENCODER), model=TINY)
    assert refused(lambda: analyze(crossing, "a", wanted)).reason == "UNKNOWN_MODEL"
