"""text-embeddings-inference's dialect, and reranking's, over real sockets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunking import load_tokenizer
from octavo.v1 import inference_pb2 as pb
from tests.models import CLASSES, ENTITY_LABELS, write_model
from tests.server.helpers import E5, MINILM, SOON, TINY, document, embed, model, prose, settings, vector
from tests.server.web import Web, web

SORTER, RANKER = "sorter", "ranker"
LONG = prose(1300)


@pytest.fixture(scope="module")
def http(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("heads")
    write_model(folder / SORTER, "sequence", models / TINY, CLASSES, seed=1)
    write_model(folder / RANKER, "sequence", models / TINY, ("LABEL_0",), seed=3)
    write_model(folder / "finder", "tokens", models / TINY, ENTITY_LABELS)
    ours = (model(str(folder / name)) for name in (SORTER, RANKER, "finder"))
    with web(settings(model(MINILM), model(TINY), model(E5), *ours, http_listen="127.0.0.1:0")) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_internal(http: Web) -> Iterator[None]:
    yield
    assert http.server.sample("requests_total", code="INTERNAL") == 0


def test_embed_gives_octavos_vectors(http: Web) -> None:
    texts = ["one text", LONG]
    answer = http.post("/embed", {"inputs": texts})
    for text, given in zip(texts, answer.json, strict=True):
        assert np.array(given, "<f4").tobytes() == vector(embed(http.server, text)).astype("<f4").tobytes()
    assert http.post("/embed", {"inputs": texts[0]}).json == answer.json[:1]
    assert http.post("/", {"inputs": texts[0], "normalize": True}).json == answer.json[:1]


def test_a_long_text_is_read_whole_unless_truncate_is_asked_for(http: Web) -> None:
    whole = http.post("/embed", {"inputs": LONG, "truncate": False})
    assert int(whole.headers["x-octavo-tokens"]) == int(whole.headers["x-compute-tokens"]) == 1300
    assert "x-octavo-truncated-characters" not in whole.headers
    right = http.post("/embed", {"inputs": LONG, "truncate": True})
    assert int(right.headers["x-octavo-tokens"]) == 510
    left = http.post("/embed", {"inputs": LONG, "truncate": True, "truncation_direction": "Left"})
    assert int(left.headers["x-octavo-tokens"]) == 510
    assert len({whole.body, right.body, left.body}) == 3
    cut = int(right.headers["x-octavo-truncated-characters"])
    tokens = load_tokenizer_of(MINILM).encode([LONG])[0]
    assert cut == len(LONG) - tokens.ends[509]
    assert right.json == http.post("/embed", {"inputs": LONG[: tokens.ends[509]]}).json
    assert left.json == http.post("/embed", {"inputs": LONG[tokens.starts[790] :]}).json


def load_tokenizer_of(name: str) -> Any:
    from server.config.schema import ModelSettings

    return load_tokenizer(ModelSettings(path=name).folder)


def test_timings_are_told(http: Web) -> None:
    headers = http.post("/embed", {"inputs": "one text"}).headers
    for name in ("compute-time", "total-time", "tokenization-time", "queue-time", "inference-time"):
        assert 0 <= int(headers[f"x-{name}"]) < SOON * 1000
    assert (headers["x-compute-tokens"], headers["x-compute-characters"]) == ("2", "8")


def test_prompts_dimensions_and_normalize(http: Web) -> None:
    query = http.post("/embed", {"inputs": "text", "prompt_name": "query", "model": E5}).json
    passage = http.post("/embed", {"inputs": "text", "prompt_name": "passage", "model": E5}).json
    assert query != passage
    (short,) = http.post("/embed", {"inputs": "text", "dimensions": 5}).json
    assert len(short) == 5
    (raw,) = http.post("/embed", {"inputs": "text", "normalize": False}).json
    assert np.linalg.norm(raw) != pytest.approx(1, abs=1e-3)


def test_ids_of_the_models_own_vocabulary_are_read(http: Web) -> None:
    ids = [each["id"] for each in http.post("/tokenize", {"inputs": "the old river"}).json[0]]
    expected = http.post("/embed", {"inputs": "the old river"}).json
    assert http.post("/embed", {"inputs": ids}).json == expected
    assert http.post("/embed", {"inputs": [ids, "the old river"]}).json == expected * 2


def test_embed_all_has_a_state_for_each_token(http: Web) -> None:
    texts = ["the old river", LONG]
    answer = http.post("/embed_all", {"inputs": texts})
    short, long = (np.array(each) for each in answer.json)
    assert short.shape == (5, 384)
    assert long.shape == (1302, 384)
    mean = short.mean(axis=0)
    expected = vector(embed(http.server, texts[0]))
    assert mean / np.linalg.norm(mean) == pytest.approx(expected, abs=1e-5)


def test_embed_sparse(http: Web) -> None:
    (answer,) = http.post("/embed_sparse", {"inputs": "the old river"}).json
    task = pb.Task(embed_sparse=pb.EmbedSparseOptions())
    request = pb.AnalyzeRequest(document=document("the old river"), tasks=[task])
    expected = http.server.inference.Analyze(request).results[0].embed_sparse.document_vector
    assert [each["index"] for each in answer] == [*expected.indices]
    assert [each["value"] for each in answer] == pytest.approx([*expected.weights])


def test_predict(http: Web) -> None:
    flat = http.post("/predict", {"inputs": "the old river"}).json
    assert {each["label"] for each in flat} == {*CLASSES}
    assert [each["score"] for each in flat] == sorted((each["score"] for each in flat), reverse=True)
    assert http.post("/predict", {"inputs": [["the old river"], ["sea"]]}).json[0] == flat


def test_a_flat_list_of_two_is_a_pair(http: Web) -> None:
    (pair,) = http.post("/predict", {"inputs": ["who", "the old river"]}).json
    assert (pair["label"], 0 < pair["score"] < 1) == ("LABEL_0", True)
    (raw,) = http.post("/predict", {"inputs": ["who", "the old river"], "raw_scores": True}).json
    assert pair["score"] == pytest.approx(1 / (1 + np.exp(-raw["score"])))
    assert http.post("/predict", {"inputs": [["who", "the old river"]]}).json == [[pair]]


def test_rerank(http: Web) -> None:
    texts = ["sea", "the old river", "winter night"]
    answer = http.post("/rerank", {"query": "who", "texts": texts, "return_text": True, "model": RANKER}).json
    scores = [each["score"] for each in answer]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert {each["index"]: each["text"] for each in answer} == dict(enumerate(texts))
    dense = http.post("/rerank", {"query": "the sea", "texts": texts}).json
    assert dense[0]["index"] == 0
    assert "text" not in dense[0]


def test_jinas_and_coheres_rerank(http: Web) -> None:
    texts = ["sea", "the old river", "winter night"]
    body = {"model": RANKER, "query": "who", "documents": texts, "top_n": 2}
    jina = http.post("/v1/rerank", body).json
    assert [each["document"]["text"] for each in jina["results"]] == [texts[each["index"]] for each in jina["results"]]
    assert jina["usage"]["total_tokens"] > 0
    cohere = http.post("/v2/rerank", body).json
    assert cohere["meta"]["billed_units"] == {"search_units": 1}
    for results in (jina["results"], cohere["results"]):
        assert len(results) == 2
        assert results[0]["relevance_score"] >= results[1]["relevance_score"]
    assert http.post("/v1/rerank", body | {"documents": [{"text": "sea"}], "return_documents": False}).json["results"][
        0
    ].keys() == {"index", "relevance_score"}


def test_cohere_cuts_documents_only_when_asked(http: Web) -> None:
    body = {"model": MINILM, "query": "who", "documents": [LONG]}
    tokens = http.post("/v2/rerank", body).json["meta"]["tokens"]["input_tokens"]
    assert tokens > 1300
    cut = http.post("/v2/rerank", body | {"max_tokens_per_doc": 100}).json["meta"]["tokens"]["input_tokens"]
    assert cut == tokens - 1200


def test_similarity(http: Web) -> None:
    body = {"inputs": {"source_sentence": "the sea", "sentences": ["the sea", "winter law"]}}
    one, other = http.post("/similarity", body).json
    assert one == pytest.approx(1, abs=1e-6)
    assert other < one


def test_tokenize_and_decode(http: Web) -> None:
    (tokens,) = http.post("/tokenize", {"inputs": "the old river"}).json
    assert [each["special"] for each in tokens] == [True, False, False, False, True]
    assert [each["text"] for each in tokens] == ["[CLS]", "the", "old", "river", "[SEP]"]
    assert (tokens[1]["start"], tokens[1]["stop"]) == (0, 3)
    (own,) = http.post("/tokenize", {"inputs": ["the old river"], "add_special_tokens": False}).json
    assert own == tokens[1:-1]
    ids = [each["id"] for each in tokens]
    assert http.post("/decode", {"ids": ids}).json == ["the old river"]
    assert http.post("/decode", {"ids": [ids, ids[:2]], "model": MINILM}).json == ["the old river", "the"]
    (pieces,) = http.post("/tokenize", {"inputs": "the old river", "model": E5}).json
    assert http.post("/decode", {"ids": [each["id"] for each in pieces], "model": E5}).json == ["the old river"]


def test_info_and_health(http: Web) -> None:
    info = http.get("/info").json
    assert (info["model_id"], info["max_input_length"], info["auto_truncate"]) == (MINILM, 512, False)
    assert info["max_client_batch_size"] == 2048
    assert http.get("/health").status == http.get("/ping").status == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "field"),
    [
        ("/embed", {"inputs": []}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": ["text", ""]}, 400, "Empty", "inputs[1]"),
        ("/embed", {"inputs": 5}, 422, "Validation", "inputs"),
        ("/embed", {"inputs": ["text", 5]}, 422, "Validation", "inputs[1]"),
        ("/embed", {"inputs": [10**9]}, 422, "Validation", "inputs[0]"),
        ("/embed", {"inputs": [-1]}, 422, "Validation", "inputs[0]"),
        ("/embed", {"inputs": [10**99]}, 422, "Validation", "inputs[0]"),
        ("/embed", {"inputs": [True]}, 422, "Validation", "inputs[0]"),
        ("/embed", {"inputs": "text", "prompt_name": "code"}, 422, "Validation", "prompt_name"),
        ("/embed", {"inputs": "text", "dimensions": 0}, 422, "Validation", "dimensions"),
        ("/embed", {"inputs": "text", "dimensions": 1000}, 422, "Validation", "dimensions"),
        ("/embed", {"inputs": "text", "dimensions": 10**20}, 422, "Validation", "dimensions"),
        ("/embed", {"inputs": "text", "truncate": "yes"}, 422, "Validation", "truncate"),
        ("/embed", {"inputs": "text", "truncation_direction": "Up"}, 422, "Validation", "truncation_direction"),
        ("/embed", {"inputs": "text", "model": "none"}, 422, "Validation", ""),
        ("/embed_all", {"inputs": [""]}, 400, "Empty", "inputs[0]"),
        ("/embed_all", {"inputs": prose(20_000)}, 422, "Validation", "inputs"),
        ("/embed_sparse", {"inputs": "text", "model": MINILM}, 422, "Validation", ""),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation", "inputs"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "Validation", "inputs"),
        ("/predict", {"inputs": [["a"], ["a", "b"]]}, 422, "Validation", "inputs"),
        ("/predict", {"inputs": ["", "text"]}, 422, "Validation", ""),
        ("/predict", {"inputs": "text", "raw_scores": True}, 422, "Validation", "raw_scores"),
        ("/rerank", {"query": "", "texts": ["text"]}, 422, "Validation", "query"),
        ("/rerank", {"query": "text", "texts": []}, 422, "Validation", "texts"),
        ("/rerank", {"query": "text", "texts": ["text", " "]}, 400, "Empty", "texts[1]"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 422, "Validation", "inputs.sentences"),
        ("/similarity", {"inputs": "a"}, 422, "Validation", "inputs"),
        ("/tokenize", {"inputs": [["a"]]}, 422, "Validation", "inputs[0]"),
        ("/tokenize", {"inputs": "a" * 500_001}, 422, "Validation", "inputs"),
        ("/decode", {"ids": [10**9]}, 422, "Validation", "ids[0]"),
        ("/decode", {"ids": "a"}, 422, "Validation", "ids"),
        ("/", b"", 422, "Validation", ""),
    ],
)
def test_what_is_refused(http: Web, path: str, body: Any, status: int, kind: str, field: str) -> None:
    answer = http.post(path, body)
    assert (answer.status, answer.json["error_type"]) == (status, kind), answer.json
    assert answer.json["error"].startswith(field)
    assert json.dumps(answer.json)
