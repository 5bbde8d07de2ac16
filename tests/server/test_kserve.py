"""KServe v2: the same answers as octavo.v1, in tensors; the same keys, limits, deadlines and errors."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from server import app
from server.config.schema import ClientSettings, PlanSettings
from server.kserve import messages
from tests.server.helpers import (
    E5,
    MINILM,
    SOON,
    TINY,
    Server,
    analyze,
    array,
    document,
    embed,
    eventually,
    model,
    prose,
    refused,
    serving,
    settings,
    vector,
)
from tests.server.kserve import call, infer, packed, request_of, stream, tensors
from tests.server.test_cross_encoders import write as write_cross_encoder

INVALID = grpc.StatusCode.INVALID_ARGUMENT
SHORT, LONG = "The light house at the north sea.", prose(1_500)
INFER = "ModelInfer"
TOO_LATE = {"DEADLINE", "QUEUE_FULL"}  # the deadline has passed, or is foreseen to


@pytest.fixture(autouse=True)
def nothing_is_held_or_internal(request: pytest.FixtureRequest) -> Iterator[None]:
    """INTERNAL and UNKNOWN are bugs, and every byte is given back."""
    yield
    for name in {"server", "task_server"} & set(request.fixturenames):
        server: Server = request.getfixturevalue(name)
        eventually(partial(is_idle, server))
        for code in ("INTERNAL", "UNKNOWN"):
            assert server.sample("requests_total", code=code) == 0


def is_idle(server: Server) -> bool:
    return server.sample("request_bytes_in_flight") == server.sample("requests_in_flight") == 0


# Embeddings


def vectors(server: Server, *texts: str, **options: Any) -> Any:
    """What octavo.v1 answers."""
    results = embed(server, *texts, options=pb.CallOptions(**options)).results
    return np.stack([array(result.embedding.document_vector) for result in results])


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_embeddings_are_those_of_octavo_v1_bit_for_bit(server: Server, typed: bool, flat: bool) -> None:
    answer = infer(server, SHORT, LONG, model=MINILM, typed=typed, flat=flat)
    expected = embed(server, SHORT, LONG, options=pb.CallOptions(model=MINILM))
    assert list(answer) == ["embeddings", "token_count"]
    assert answer["embeddings"].dtype == np.float32
    assert np.array_equal(answer["embeddings"], vectors(server, SHORT, LONG, model=MINILM))
    assert answer["token_count"].tolist() == [result.usage.tokens for result in expected.results]
    assert answer["token_count"][1] > 512, "the text is longer than the model reads at once"


@pytest.mark.parametrize("input_type", ["query", "passage"])
def test_the_input_type_decides_the_prefix(server: Server, input_type: str) -> None:
    answer = infer(server, SHORT, model=E5, parameters={"input_type": input_type})
    number = pb.InputType.Value(f"INPUT_TYPE_{input_type.upper()}")
    assert np.array_equal(answer["embeddings"], vectors(server, SHORT, model=E5, input_type=number))


@pytest.mark.parametrize(
    ("name", "data_type", "shift"),
    [
        ("float", pb.DATA_TYPE_FLOAT32, 0),
        ("float16", pb.DATA_TYPE_FLOAT16, 0),
        ("int8", pb.DATA_TYPE_INT8, 0),
        ("uint8", pb.DATA_TYPE_INT8, 128),
        ("ubinary", pb.DATA_TYPE_BINARY, 0),
        ("binary", pb.DATA_TYPE_BINARY, -128),
    ],
)
def test_embedding_types_are_data_types_of_octavo_v1(server: Server, name: str, data_type: Any, shift: int) -> None:
    wanted = {"embedding_type": name, "dimensions": 64}
    answer = infer(server, SHORT, model=MINILM, parameters=wanted)["embeddings"]
    options = pb.CallOptions(model=MINILM)
    expected = vector(embed(server, SHORT, options=options, embed=pb.EmbedOptions(data_type=data_type, dimensions=64)))
    if data_type == pb.DATA_TYPE_BINARY:
        assert answer.dtype.name == ("uint8" if name == "ubinary" else "int8")
        expected = np.packbits(expected)
    elif name in {"int8", "uint8"}:
        assert answer.dtype.name == name
    assert np.array_equal(answer[0].astype(float), expected.astype(float) + shift)


@pytest.mark.parametrize("name", [MINILM, E5])
@pytest.mark.parametrize("truncate", ["END", "START"])
def test_truncation_keeps_as_many_tokens_as_the_model_reads_at_once(server: Server, name: str, truncate: str) -> None:
    text = prose(700, seed=3)
    answer = infer(server, SHORT, text, model=name, parameters={"truncate": truncate, "input_type": "passage"})
    passage: Any = {"model": name, "input_type": pb.INPUT_TYPE_PASSAGE}
    whole = embed(server, SHORT, text, options=pb.CallOptions(**passage))
    short, long = (result.segments for result in whole.results)
    most = 512 - (short[0].processed_tokens - short[0].tokens)
    assert answer["token_count"].tolist() == [short[0].tokens, most]
    assert sum(segment.tokens for segment in long) > most
    kept = sorted((text[:end] if truncate == "END" else text[-end:] for end in range(len(text))), key=len)
    longest = next(part for part in reversed(kept) if tokens_of(server, part, **passage) == most)
    assert np.array_equal(answer["embeddings"], vectors(server, SHORT, longest, **passage))


def tokens_of(server: Server, text: str, **options: Any) -> int:
    request = pb.SegmentRequest(document=document(text), options=pb.CallOptions(**options))
    return int(server.inference.Segment(request, timeout=SOON).info.usage.tokens)


def test_nothing_is_cut_by_default(server: Server) -> None:
    expected = infer(server, LONG, model=MINILM)
    for parameters in ({}, {"truncate": "NONE"}):
        answer = infer(server, LONG, model=MINILM, parameters=parameters)
        assert np.array_equal(answer["embeddings"], expected["embeddings"])


# Other tasks


def test_a_head_s_own_task_is_the_default(task_server: Server) -> None:
    answer = infer(task_server, SHORT, LONG, model="sorter")
    assert answer["labels"].shape == answer["label_scores"].shape == (2, 3)
    for row, text in enumerate((SHORT, LONG)):
        request = pb.ClassifyRequest(document=document(text), options=pb.CallOptions(model="sorter"))
        expected = task_server.inference.Classify(request, timeout=SOON).result.labels
        assert answer["labels"][row].tolist() == [label.label for label in expected]
        assert answer["label_scores"][row].tolist() == [label.score for label in expected]
    assert infer(task_server, SHORT, model="sorter", parameters={"top_k": 1})["labels"].shape == (1, 1)


def test_entities_are_rows_of_their_texts(task_server: Server) -> None:
    answer = infer(task_server, SHORT, LONG, model="finder", parameters={"min_score": 0.3})
    rows = answer["entity_rows"].tolist()
    assert rows[0] == 0 < rows[2] == len(answer["entity_labels"])
    for row, text in enumerate((SHORT, LONG)):
        options = pb.ClassifyTokensOptions(min_score=0.3)
        request = pb.ClassifyTokensRequest(
            document=document(text), options=pb.CallOptions(model="finder"), classify_tokens=options
        )
        expected = task_server.inference.ClassifyTokens(request, timeout=SOON).result.entities
        part = slice(rows[row], rows[row + 1])
        assert answer["entity_spans"][part].tolist() == [[each.span.start, each.span.end] for each in expected]
        assert answer["entity_labels"][part].tolist() == [each.label for each in expected]
        assert answer["entity_scores"][part].tolist() == [each.score for each in expected]


def test_a_text_without_entities_has_no_rows(task_server: Server) -> None:
    answer = infer(task_server, SHORT, model="finder", parameters={"min_score": 1.0})
    assert answer["entity_rows"].tolist() == [0, 0]
    assert answer["entity_spans"].shape == (0, 2)
    assert answer["entity_labels"].shape == (0,)


def test_a_redacted_text_has_the_mask(task_server: Server) -> None:
    answer = infer(task_server, SHORT, LONG, model="finder", outputs=["redacted"], parameters={"mask": "<{label}>"})
    options = pb.CallOptions(model="finder")
    for row, text in enumerate((SHORT, LONG)):
        request = pb.RedactRequest(document=document(text), options=options, redact=pb.RedactOptions(mask="<{label}>"))
        assert answer["redacted"][row, 0] == task_server.inference.Redact(request, timeout=SOON).result.text
    assert "<P" in answer["redacted"][1, 0]


def test_sparse_vectors_are_rows_of_a_matrix(server: Server) -> None:
    answer = infer(server, SHORT, LONG, model=TINY)
    rows = answer["sparse_rows"].tolist()
    for row, text in enumerate((SHORT, LONG)):
        request = pb.EmbedSparseRequest(document=document(text), options=pb.CallOptions(model=TINY))
        expected = server.inference.EmbedSparse(request, timeout=SOON).result.document_vector
        part = slice(rows[row], rows[row + 1])
        assert answer["sparse_indices"][part].tolist() == list(expected.indices)
        assert answer["sparse_weights"][part].tolist() == list(expected.weights)


def test_a_query_ranks_texts_in_their_order(server: Server) -> None:
    texts = [prose(40, seed) for seed in range(3)] + [LONG]
    answer = infer(server, *texts, model=MINILM, query="Who keeps the light?")
    request = pb.RankRequest(
        documents=[document(text) for text in texts],
        options=pb.CallOptions(model=MINILM),
        rank=pb.RankOptions(query="Who keeps the light?", passages=1),
    )
    expected = {each.index: each.ranking for each in server.inference.Rank(request, timeout=SOON).documents}
    assert answer["scores"].tolist() == [expected[i].score for i in range(4)]
    spans = [[(span := expected[i].passages[0].span).start, span.end] for i in range(4)]
    assert answer["best_spans"].tolist() == spans


def test_a_cross_encoder_ranks_unless_asked_for_something_else(models: Any, tmp_path: Path) -> None:
    name = str(write_cross_encoder(tmp_path / "crosser", "bert"))
    with serving(settings(model(name))) as server:
        metadata = call(server, "ModelMetadata", name="crosser")
        assert [each.name for each in metadata.inputs] == ["text", "query"]
        assert [each.name for each in metadata.outputs][:2] == ["scores", "best_spans"]
        texts = [prose(30, seed) for seed in range(4)] + [LONG]
        answer = infer(server, *texts, model="crosser", query="Who keeps the light?")
        request = pb.RankRequest(
            documents=[document(text) for text in texts],
            rank=pb.RankOptions(query="Who keeps the light?", method=pb.RANK_METHOD_CROSS_ENCODER),
        )
        expected = {each.index: each.ranking for each in server.inference.Rank(request, timeout=SOON).documents}
        assert answer["scores"].tolist() == [expected[i].score for i in range(5)]
        shorter = infer(server, LONG, model="crosser", query="light", parameters={"truncate": "END"})
        pair = analyze(server, LONG, pb.Task(rank=pb.RankOptions(query="light"))).segments[0]
        assert shorter["token_count"].tolist() == [512 - (pair.processed_tokens - pair.tokens)]
        assert refused(lambda: infer(server, *texts, model="crosser")).field == "inputs"


# Requests


def test_outputs_come_as_asked_for_and_alone(server: Server) -> None:
    response = call(server, INFER, request_of([SHORT], model=TINY, outputs=["token_count", "embeddings"], id="mine"))
    assert list(tensors(response)) == ["token_count", "embeddings"]
    assert (response.id, response.model_name) == ("mine", TINY)
    described = server.models.GetModel(models_pb2.GetModelRequest(name=TINY), timeout=SOON).model
    assert response.model_version == described.ref.version
    assert response.parameters["fingerprint"].string_param
    assert len(response.parameters["request_id"].string_param) == 32
    assert list(infer(server, SHORT, model=MINILM, outputs=["token_count"])) == ["token_count"]


def shaped(*shape: int) -> Callable[[Any], None]:
    def edit(made: Any) -> None:
        del made.inputs[0].shape[:]
        made.inputs[0].shape.extend(shape)

    return edit


def raw(*contents: bytes) -> Callable[[Any], None]:
    def edit(made: Any) -> None:
        del made.raw_input_contents[:]
        made.raw_input_contents.extend(contents)

    return edit


def typed(**contents: Any) -> Callable[[Any], None]:
    def edit(made: Any) -> None:
        raw()(made)
        for name, values in contents.items():
            getattr(made.inputs[0].contents, name).extend(values)

    return edit


def asked(*names: str, **parameters: int) -> Callable[[Any], None]:
    def edit(made: Any) -> None:
        for name in names:
            output = made.outputs.add(name=name)
            for key, value in parameters.items():
                output.parameters[key].int64_param = value

    return edit


def second(name: str) -> Callable[[Any], None]:
    def edit(made: Any) -> None:
        made.inputs.add(name=name, datatype="BYTES", shape=[1])
        made.raw_input_contents.append(packed("a"))

    return edit


def set_on_input(**fields: str) -> Callable[[Any], None]:
    def edit(made: Any) -> None:
        for name, value in fields.items():
            setattr(made.inputs[0], name, value)

    return edit


BAD_TENSORS: dict[str, tuple[str, Callable[[Any], object]]] = {  # field at fault, and the edit of a good request
    "no inputs": ("inputs", lambda made: [made.ClearField("inputs"), raw()(made)]),
    "another name": ("inputs", set_on_input(name="texts")),
    "an input too many": ("inputs", second("modality")),
    "an input twice": ("inputs[1].name", second("text")),
    "another datatype": ("inputs[0].datatype", set_on_input(datatype="FP32")),
    "no datatype": ("inputs[0].datatype", set_on_input(datatype="")),
    "no shape": ("inputs[0].shape", shaped()),
    "no rows": ("inputs[0].shape", shaped(0, 1)),
    "two columns": ("inputs[0].shape", shaped(1, 2)),
    "three axes": ("inputs[0].shape", shaped(2, 1, 1)),
    "a negative axis": ("inputs[0].shape", shaped(-2, 1)),
    "two negative axes": ("inputs[0].shape", shaped(-2, -1)),
    "a vast axis": ("inputs[0].shape", shaped(1 << 62)),
    "a row too few": ("raw_input_contents[0]", shaped(1, 1)),
    "a row too many": ("raw_input_contents[0]", shaped(3, 1)),
    "a length too long": ("raw_input_contents[0]", raw(b"\xff\xff\xff\xff" + packed("a", "b"))),
    "cut off": ("raw_input_contents[0]", raw(packed("abc", "def")[:-1])),
    "cut within a length": ("raw_input_contents[0]", raw(packed("abc") + b"\x01\x00")),
    "bytes behind": ("raw_input_contents[0]", raw(packed("abc", "def") + b"\x00")),
    "no contents": ("inputs[0].contents", raw()),
    "contents too many": ("raw_input_contents", raw(packed("a", "b"), packed("c"))),
    "raw and typed": ("inputs[0].contents", lambda made: made.inputs[0].contents.bytes_contents.append(b"a")),
    "typed as numbers": ("inputs[0].contents.fp32_contents", typed(fp32_contents=[1.0, 2.0])),
    "typed twice": ("inputs[0].contents.bool_contents", typed(bool_contents=[True], bytes_contents=[b"a", b"b"])),
    "typed too few": ("inputs[0].contents", typed(bytes_contents=[b"a"])),
    "not UTF-8": ("text[1]", raw(packed("a", b"\xff\xfe"))),
    "a surrogate": ("text[0]", raw(packed(b"\xed\xa0\x80", "b"))),
    "shared memory": ("inputs[0].parameters", lambda made: made.inputs[0].parameters["shared_memory_region"]),
    "classification": ("outputs[0].parameters", asked("embeddings", classification=3)),
    "an unknown output": ("outputs[0].name", asked("vectors")),
    "an output twice": ("outputs[1].name", asked("embeddings", "embeddings")),
    "outputs of two tasks": ("outputs", asked("embeddings", "scores")),
    "ranking without a query": ("inputs", asked("scores")),
}


def edited(edit: Callable[[Any], object]) -> Any:
    made = request_of([SHORT, "Another."], model=MINILM)
    edit(made)
    return made


@pytest.mark.parametrize("what", BAD_TENSORS)
def test_a_bad_tensor_is_refused_by_its_field(server: Server, what: str) -> None:
    field, edit = BAD_TENSORS[what]
    refusal = refused(lambda: call(server, INFER, edited(edit)))
    assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", field)
    assert refusal.message.startswith(f"{field}: "), "its client shows nothing but the message"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_type", "document"),
        ("input_type", 1),
        ("truncate", "LEFT"),
        ("truncate", True),
        ("embedding_type", "bfloat16"),
        ("dimensions", 0),
        ("dimensions", 385),
        ("dimensions", -1),
        ("dimensions", 1 << 40),
        ("dimensions", "64"),
        ("timeout", -1),
        ("timeout", 1.5),
        ("priority", "high"),
    ],
)
def test_a_bad_parameter_is_refused_by_its_name(server: Server, name: str, value: Any) -> None:
    refusal = refused(lambda: infer(server, SHORT, model=MINILM, parameters={name: value}))
    assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", f"parameters.{name}")


@pytest.mark.parametrize(
    ("model_name", "name", "value"),
    [("finder", "min_score", 2.0), ("finder", "min_score", float("nan")), ("sorter", "top_k", -1)],
)
def test_a_bad_parameter_of_a_task_is_refused_by_its_name(
    task_server: Server, model_name: str, name: str, value: Any
) -> None:
    refusal = refused(lambda: infer(task_server, SHORT, model=model_name, parameters={name: value}))
    assert (refusal.code, refusal.field) == (INVALID, f"parameters.{name}")


@pytest.mark.parametrize("name", ["sequence_id", "dimension", "mask", ""])
def test_an_unknown_parameter_is_refused_and_the_known_ones_are_named(server: Server, name: str) -> None:
    refusal = refused(lambda: infer(server, SHORT, model=MINILM, parameters={name: "x"}))
    assert (refusal.code, refusal.field) == (INVALID, "parameters")
    assert "dimensions" in refusal.message


def test_a_parameter_without_a_value_is_refused(server: Server) -> None:
    refusal = refused(lambda: call(server, INFER, edited(lambda made: made.parameters["truncate"])))
    assert refusal.field == "parameters.truncate"


def test_parameters_that_change_nothing_are_accepted(server: Server) -> None:
    given = {"binary_data_output": True, "triton_enable_empty_final_response": True, "priority": 7, "timeout": 0}
    assert list(infer(server, SHORT, model=MINILM, parameters=given)) == ["embeddings", "token_count"]


def test_an_empty_text_is_refused_by_its_number(server: Server) -> None:
    before = server.sample("segments_total")
    for empty in ("", " \n"):
        refusal = refused(partial(infer, server, SHORT, empty, model=MINILM))
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "EMPTY_DOCUMENT", "text[1]")
        assert refusal.message.startswith("text[1]: ")
    assert server.sample("segments_total") == before, "a text was computed for a request that cannot be answered"
    assert refused(lambda: infer(server, SHORT, "\x00\x07", model=MINILM)).field == "text[1]"


def test_an_empty_query_is_refused(server: Server) -> None:
    refusal = refused(lambda: infer(server, SHORT, model=MINILM, query=" "))
    assert (refusal.code, refusal.field) == (INVALID, "query")


@pytest.mark.parametrize(("name", "version"), [("none", ""), (MINILM, "0"), ("", "0"), (MINILM + "@x", "")])
def test_an_unknown_model_is_not_found(server: Server, name: str, version: str) -> None:
    refusal = refused(lambda: infer(server, SHORT, model=name, model_version=version))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
    assert not call(server, "ModelReady", name=name, version=version).ready


# Metadata


def test_metadata_says_what_is_served(task_server: Server) -> None:
    assert call(task_server, "ServerLive").live
    assert call(task_server, "ServerReady").ready
    assert call(task_server, "ModelReady", name="finder").ready
    assert call(task_server, "ServerMetadata").name == "octavo"
    index = call(task_server, "RepositoryIndex").models
    assert [(model.name, model.state) for model in index] == [
        (n, "READY") for n in ("finder", "sorter", TINY, "tagger")
    ]
    metadata = call(task_server, "ModelMetadata", name="sorter")
    assert (metadata.name, list(metadata.versions)) == ("sorter", [index[1].version])
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [("text", "BYTES", [-1, 1])]
    config = call(task_server, "ModelConfig", name="sorter").config
    outputs = [(each.name, list(each.shape)) for each in metadata.outputs]
    assert outputs == [(each.name, list(each.dims)) for each in config.output]
    assert outputs[:2] == [("labels", [-1, 3]), ("label_scores", [-1, 3])]
    assert config.max_batch_size == 0


@pytest.mark.parametrize("name", ["finder", "sorter", TINY])
def test_every_output_that_metadata_names_is_answered_in_its_type(task_server: Server, name: str) -> None:
    for described in call(task_server, "ModelMetadata", name=name).outputs:
        query: Any = {"query": "light"} if described.name in {"scores", "best_spans"} else {}
        response = call(task_server, INFER, request_of([SHORT], model=name, outputs=[described.name], **query))
        (output,) = response.outputs
        assert (output.name, output.datatype) == (described.name, described.datatype)
        sizes = zip(described.shape, output.shape, strict=True)
        assert all(declared in {-1, size} for declared, size in sizes)


def test_statistics_count_what_was_answered_and_what_failed(models: Any) -> None:
    with serving(settings(model(TINY))) as server:
        infer(server, SHORT, LONG, model=TINY)
        infer(server, SHORT, model="")
        refused(lambda: infer(server, "", model=TINY))
        (counts,) = call(server, "ModelStatistics").model_stats
        assert (counts.name, counts.inference_count, counts.execution_count) == (TINY, 3, 2)
        assert (counts.inference_stats.success.count, counts.inference_stats.fail.count) == (2, 1)
        assert counts.inference_stats.success.ns > 0
        assert time.time() - SOON < counts.last_inference / 1000 <= time.time()


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus"])
def test_other_methods_of_triton_are_unimplemented(server: Server, method: str) -> None:
    made: Any = server.channel().unary_unary(f"/inference.GRPCInferenceService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        made(b"", timeout=SOON)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_messages_are_in_no_pool_but_their_own() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")


# Keys, limits, deadlines


def test_health_needs_no_key_and_everything_else_does(models: Any) -> None:
    configured = settings(model(TINY)).model_copy(update={"clients": {"anonymous": ClientSettings(disabled=True)}})
    with serving(configured) as server:
        assert call(server, "ServerLive").live
        assert call(server, "ServerReady").ready
        for method in {*messages.SERVICE.methods_by_name} - {"ServerLive", "ServerReady", "ModelStreamInfer"}:
            refusal = refused(partial(call, server, method))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert refused(lambda: stream(server, iter([]))).reason == "UNAUTHENTICATED"


def test_a_plan_s_models_are_all_that_a_client_sees(models: Any) -> None:
    plans = {"anonymous": PlanSettings(models=(TINY,))}
    with serving(settings(model(TINY), model(MINILM)).model_copy(update={"plans": plans})) as server:
        assert [each.name for each in call(server, "RepositoryIndex").models] == [TINY]
        assert [each.name for each in call(server, "ModelStatistics").model_stats] == [TINY]
        assert not call(server, "ModelReady", name=MINILM).ready
        refusal = refused(lambda: infer(server, SHORT, model=MINILM))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


def test_a_rate_of_calls_holds_for_the_requests_of_a_stream_too(models: Any) -> None:
    plans = {"anonymous": PlanSettings(requests_per_second=0.05)}
    with serving(settings(model(TINY)).model_copy(update={"plans": plans})) as server:
        requests = [request_of([SHORT], model=TINY, id=str(i)) for i in range(3)]
        answers = list(stream(server, iter(requests)))
        assert [answer.error_message.partition(":")[0] for answer in answers] == ["", "RATE_LIMITED", "RATE_LIMITED"]
        assert "try again in " in answers[1].error_message
        assert [answer.infer_response.id for answer in answers] == ["0", "1", "2"]
        refusal = refused(lambda: infer(server, SHORT, model=TINY))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")


def test_sizes_are_bounded_as_octavo_v1_s_are(models: Any) -> None:
    bounds: Any = {"max_document_bytes": 65_536, "max_documents": 4, "max_reply_bytes": 65_536}
    with serving(settings(model(MINILM), **bounds)) as server:
        refusal = refused(lambda: infer(server, "a " * 20_000, "b " * 20_000, model=MINILM))
        assert (refusal.reason, refusal.field) == ("DOCUMENT_TOO_LARGE", "inputs")
        assert refused(lambda: infer(server, *[SHORT] * 5, model=MINILM)).field == "inputs[0].shape"
        assert len(infer(server, *[SHORT] * 4, model=MINILM)["embeddings"]) == 4


def test_a_reply_that_would_be_too_large_is_refused_before_it_is_computed(models: Any) -> None:
    with serving(settings(model(MINILM), max_reply_bytes=65_536)) as server:
        before = server.sample("segments_total")
        refusal = refused(lambda: infer(server, *[SHORT] * 64, model=MINILM))
        assert (refusal.code, refusal.reason) == (INVALID, "REPLY_TOO_LARGE")
        assert server.sample("segments_total") == before


def test_the_timeout_of_a_request_is_its_deadline(server: Server) -> None:
    refusal = refused(lambda: infer(server, LONG, model=MINILM, parameters={"timeout": 1}))
    assert refusal.reason in TOO_LATE


def test_a_client_that_leaves_leaves_nothing_behind(server: Server) -> None:
    made: Any = server.channel().unary_unary("/inference.GRPCInferenceService/ModelInfer")
    calls = [made.future(request_of([prose(20_000, i)], model=MINILM).SerializeToString()) for i in range(4)]
    eventually(lambda: server.sample("requests_in_flight") == 4)
    for each in calls:
        each.cancel()
    eventually(lambda: server.sample("requests_in_flight") == 0)


# Streams


def test_a_stream_answers_in_order_and_goes_on_after_an_error(server: Server) -> None:
    requests = [
        request_of([SHORT], model=MINILM, id="a"),
        request_of([""], model=MINILM, id="b"),
        request_of([SHORT], model="none", id="c"),
        request_of([SHORT, LONG], model=MINILM, id="d", parameters={"timeout": 30_000_000}),
        request_of([LONG], model=MINILM, id="e", parameters={"timeout": 1}),
        request_of([LONG], model=E5, id="f"),
    ]
    answers = list(stream(server, iter(requests)))
    assert [answer.infer_response.id for answer in answers] == list("abcdef")
    reasons = [answer.error_message.partition(":")[0] for answer in answers]
    assert reasons[4] in TOO_LATE
    assert [*reasons[:4], reasons[5]] == ["", "EMPTY_DOCUMENT", "UNKNOWN_MODEL", "", ""]
    for answer in (answers[0], answers[3], answers[5]):
        assert answer.infer_response.parameters["triton_final_response"].bool_param
    for answer, texts, name in ((answers[3], [SHORT, LONG], MINILM), (answers[5], [LONG], E5)):
        assert np.array_equal(tensors(answer.infer_response)["embeddings"], vectors(server, *texts, model=name))


class Told:
    """An iterator of what is sent to it."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)

    def send(self, request: Any) -> None:
        self._queue.put(request)

    def close(self) -> None:
        self._queue.put(None)


def test_a_stream_holds_no_bytes_between_its_requests(server: Server) -> None:
    going_on = Told()
    answers = stream(server, iter(going_on))
    for _ in range(3):
        going_on.send(request_of([LONG] * 8, model=TINY, outputs=["embeddings"]))
        assert not next(answers).error_message
        eventually(lambda: server.sample("request_bytes_in_flight") == 0)
    going_on.close()
    assert not list(answers)


def test_a_stream_that_idles_ends(models: Any) -> None:
    with serving(settings(model(TINY), default_deadline_seconds=1.0)) as server:
        going_on = Told()
        answers = stream(server, iter(going_on))
        going_on.send(request_of([SHORT], model=TINY))
        assert not next(answers).error_message
        assert refused(lambda: next(answers)).reason == "DEADLINE"
        going_on.close()


async def test_a_stream_ends_when_the_server_stops(models: Any) -> None:
    async with app.running(settings(model(TINY), stop_grace_seconds=10 * SOON)) as server:
        async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
            made: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            going_on = made()
            await going_on.write(request_of([SHORT], model=TINY, id="a").SerializeToString())
            answer = messages.ModelStreamInferResponse.FromString(await going_on.read())
            assert (answer.infer_response.id, answer.error_message) == ("a", "")
            stopping = asyncio.create_task(server.stop())
            assert await going_on.code() == grpc.StatusCode.UNAVAILABLE
            assert b"DRAINING" in dict(await going_on.trailing_metadata())["grpc-status-details-bin"]
            await asyncio.wait_for(stopping, SOON)


# Hostile


def mutated(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                del made[at : at + chance.randrange(1, 30)]
            case 2:
                made[at:at] = chance.randbytes(chance.randrange(1, 12))
            case _:
                made[at:at] = made[at : at + chance.randrange(1, 40)]
    return bytes(made)


def test_mutated_frames_are_answered_or_refused(task_server: Server) -> None:
    chance = random.Random(19)
    channel = task_server.channel()
    bases = [
        request_of([SHORT, "Another."], model="finder", parameters={"min_score": 0.5, "truncate": "END"}),
        request_of([SHORT], model="sorter", typed=True, outputs=["labels"], parameters={"timeout": 5_000_000}),
        request_of([SHORT, "b"], model=TINY, query="light", outputs=["scores", "token_count"]),
        request_of([SHORT], model=TINY, outputs=["embeddings"], parameters={"dimensions": 7, "embedding_type": "int8"}),
    ]
    codes = set()
    for number in range(400):
        data = mutated(chance.choice(bases).SerializeToString(), chance)
        try:
            if number % 4:
                call(task_server, INFER, data, channel=channel)
            else:
                list(stream(task_server, iter([data, bases[0]])))
            codes.add("OK")
        except grpc.RpcError as error:
            codes.add(error.code().name)
    assert {"OK", "INVALID_ARGUMENT"} <= codes <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}


def test_millions_of_fields_are_refused_unparsed(server: Server) -> None:
    made = messages.ModelInferRequest(model_name=MINILM)
    made.inputs.add(name="text", datatype="BYTES", shape=[256]).contents.bytes_contents.extend([b""] * 100_000)
    refusal = refused(lambda: call(server, INFER, made))
    assert (refusal.code, refusal.reason) == (INVALID, "INVALID_OPTION")
    assert "fields" in refusal.message
