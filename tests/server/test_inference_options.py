"""Options of calls to a real server: models, fingerprints, and what is refused with its field named."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from server.config.schema import PlanSettings
from tests.server.helpers import (
    E5,
    MINILM,
    SOON,
    TINY,
    Server,
    analyze,
    computed,
    document,
    embed,
    model,
    prose,
    refused,
    segment,
    serving,
    settings,
    stream,
    task,
    vector,
)

pytestmark = pytest.mark.usefixtures("nothing_internal")

INVALID = grpc.StatusCode.INVALID_ARGUMENT

# Models and fingerprints


def test_a_model_has_a_name_and_a_version(server: Server) -> None:
    ref = segment(server, "word", model=MINILM).info.model
    assert ref.name == MINILM
    assert ref.digest.startswith(ref.version)
    assert segment(server, "word", model=f"{MINILM}@{ref.version}").info.model == ref
    assert segment(server, "word").info.model.name == TINY  # the default


@pytest.mark.parametrize(
    "name", ["none", f"{MINILM}@0123456789ab", "@", f"{TINY}@{'f' * 64}", "../etc", MINILM.upper()]
)
def test_an_unknown_model_is_not_found(server: Server, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: segment(server, "word", model=name),
        lambda: analyze(server, "word", model=name),
        lambda: stream(server, "word", model=name),
        lambda: embed(server, "word", options=pb.CallOptions(model=name)),
        lambda: server.models.GetModel(models_pb2.GetModelRequest(name=name)),
    ]
    for call in calls:
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")


def test_only_the_plan_s_models_are_named_to_a_client(models: object) -> None:
    plans = {"anonymous": PlanSettings(models=(TINY,))}
    with serving(settings(model(TINY), model(MINILM)).model_copy(update={"plans": plans})) as server:
        unknown = refused(lambda: segment(server, "word", model="none"))
        assert TINY in unknown.message
        assert MINILM not in str(unknown)
        for reference in (MINILM, f"{MINILM}@0123456789ab"):
            refusal = refused(lambda reference=reference: segment(server, "word", model=reference))  # type: ignore[misc]
            assert refusal.code == grpc.StatusCode.PERMISSION_DENIED, "the version is not told either"
            request = models_pb2.GetModelRequest(name=reference)
            assert refused(lambda request=request: server.models.GetModel(request)).code == refusal.code  # type: ignore[misc]


def test_an_error_never_repeats_what_a_client_sent(server: Server) -> None:
    refusals = [
        refused(lambda: segment(server, "SECRET", model="SECRET")),
        refused(lambda: segment(server, "SECRET", expected_fingerprint="SECRET")),
        refused(lambda: analyze(server, "SECRET", task("SECRET"), task("SECRET"))),
        refused(lambda: server.models.ListModels(models_pb2.ListModelsRequest(page_token="SECRET"))),  # noqa: S106
        refused(lambda: analyze(server, "SECRET", task(spans=[pb.Span(start=1, end=700)]))),
    ]
    assert not [refusal for refusal in refusals if "SECRET" in str(refusal)]


def test_the_models_are_listed_page_by_page(server: Server) -> None:
    names, token = [], ""
    for _ in range(5):
        response = server.models.ListModels(models_pb2.ListModelsRequest(page_size=1, page_token=token), timeout=SOON)
        names += [model.ref.name for model in response.models]
        token = response.next_page_token
        if not token:
            break
    assert names == sorted([TINY, MINILM, E5])
    everything = server.models.ListModels(models_pb2.ListModelsRequest(), timeout=SOON)
    assert [model.ref.name for model in everything.models] == names
    assert [model.is_default for model in everything.models] == [name == TINY for name in names]


def test_a_listed_model_says_how_it_is_served_and_not_where_it_lies(server: Server) -> None:
    model = server.models.GetModel(models_pb2.GetModelRequest(name=E5), timeout=SOON).model
    assert (model.dimensions, model.layers, model.max_segment_tokens, model.number_scheme) == (384, 12, 512, "fp32")
    assert (model.query_prefix, model.passage_prefix) == ("query: ", "passage: ")
    assert 0 < model.token_budget < 510  # the prefix takes its place in every segment
    assert model.segmentation.max_tokens == model.token_budget
    assert "embed" in model.tasks
    assert "/" not in str(model).replace("Apache-2.0", "").replace("\\/", "")


def test_getmodel_s_fingerprint_is_that_of_a_call_without_options(server: Server) -> None:
    for name in (TINY, MINILM, E5):
        model = server.models.GetModel(models_pb2.GetModelRequest(name=name), timeout=SOON).model
        assert analyze(server, "word", model=name).info.fingerprint == model.fingerprint
        assert segment(server, "word", model=name).info.fingerprint == model.fingerprint


def fingerprint(server: Server, options: dict[str, Any] | None = None, **embedding: Any) -> str:
    call = pb.CallOptions(**{"model": MINILM, **(options or {})})
    return embed(server, "word", options=call, embed=pb.EmbedOptions(**embedding)).info.fingerprint


DISTINCT = {
    "window": ({"window": 64}, {}),
    "pooling": ({}, {"pooling": pb.POOLING_CLS}),
    "policy": ({"segmentation": pb.Segmentation(policy=pb.SEGMENTATION_POLICY_SENTENCE)}, {}),
    "max_tokens": ({"segmentation": pb.Segmentation(max_tokens=300)}, {}),
    "min_tokens": ({"segmentation": pb.Segmentation(min_tokens=100)}, {}),
    "normalize": ({}, {"normalize": False}),
    "dimensions": ({}, {"dimensions": 100}),
    "model": ({"model": TINY}, {}),
}
ALIKE = {
    "query": ({"input_type": pb.INPUT_TYPE_QUERY}, {}),
    "passage": ({"input_type": pb.INPUT_TYPE_PASSAGE}, {}),
    "float16": ({}, {"data_type": pb.DATA_TYPE_FLOAT16}),
    "binary": ({}, {"data_type": pb.DATA_TYPE_BINARY}),
    "unit": ({"offset_unit": pb.OFFSET_UNIT_UTF8}, {}),
    "segment vectors": ({}, {"return_segment_vectors": True}),
    "the model's own pooling": ({}, {"pooling": pb.POOLING_MEAN}),
    "a window that sees everything": ({"window": 511}, {}),
    "an explicit default": ({"segmentation": pb.Segmentation(policy=pb.SEGMENTATION_POLICY_CONTENT)}, {}),
}


@pytest.mark.parametrize(("options", "embedding"), DISTINCT.values(), ids=DISTINCT.keys())
def test_what_sets_vectors_apart_changes_the_fingerprint(
    server: Server, options: dict[str, Any], embedding: dict[str, Any]
) -> None:
    assert fingerprint(server, options, **embedding) != fingerprint(server)


@pytest.mark.parametrize(("options", "embedding"), ALIKE.values(), ids=ALIKE.keys())
def test_what_leaves_vectors_comparable_keeps_the_fingerprint(
    server: Server, options: dict[str, Any], embedding: dict[str, Any]
) -> None:
    assert fingerprint(server, options, **embedding) == fingerprint(server)


def test_a_fingerprint_can_be_demanded(server: Server) -> None:
    right = analyze(server, "word").info.fingerprint
    assert analyze(server, "word", expected_fingerprint=right).info.fingerprint == right
    before = computed(server)
    calls: list[Callable[[], object]] = [
        lambda: segment(server, "word", expected_fingerprint="0" * 32),
        lambda: analyze(server, "word", expected_fingerprint=right, window=64),
        lambda: stream(server, "word", expected_fingerprint=right.upper()),
        lambda: embed(server, "word", options=pb.CallOptions(expected_fingerprint=right, model=MINILM)),
    ]
    for call in calls:
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FINGERPRINT_MISMATCH")
    assert computed(server) == before


def test_options_do_what_they_say(server: Server) -> None:
    text = prose(900, seed=12)

    def made(window: int = 0, **embedding: Any) -> Any:
        asked = pb.EmbedOptions(**{"normalize": True, **embedding})
        return vector(embed(server, text, options=pb.CallOptions(window=window), embed=asked))

    plain = made()
    assert np.linalg.norm(plain) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(vector(embed(server, text, embed=pb.EmbedOptions(normalize=True))), plain)
    assert np.abs(plain - made(window=16)).max() > 1e-4
    fixed = segment(server, text, segmentation=pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED, max_tokens=100))
    assert {info.tokens for info in fixed.segments[:-1]} == {100}
    raw = made(normalize=False)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), plain, atol=1e-6)
    np.testing.assert_array_equal(made(data_type=pb.DATA_TYPE_FLOAT16), plain.astype(np.float16))
    np.testing.assert_array_equal(made(data_type=pb.DATA_TYPE_BINARY), plain > 0)
    np.testing.assert_array_equal(made(data_type=pb.DATA_TYPE_INT8), np.round(plain * 127))
    np.testing.assert_allclose(made(dimensions=10), plain[:10] / np.linalg.norm(plain[:10]), atol=1e-6)
    assert np.abs(made(pooling=pb.POOLING_CLS) - plain).max() > 1e-4


# Wrong options, each with its field

LARGE = 2**32 - 1


def option(**fields: Any) -> tuple[str, dict[str, Any]]:
    (name,) = fields
    return f"options.{name}", {"options": pb.CallOptions(**fields)}


def cutting(name: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return f"options.segmentation.{name}", {"options": pb.CallOptions(segmentation=pb.Segmentation(**fields))}


def embedding(name: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return f"embed.{name}", {"embed": pb.EmbedOptions(**fields)}


def span(start: int, end: int, name: str = "spans") -> tuple[str, dict[str, Any]]:
    return embedding(name, spans=[pb.Span(start=start, end=end)])


WRONG = {
    "unit": option(offset_unit=99),
    "input type": option(input_type=3),
    "cache mode": option(cache_mode=17),
    "priority": option(priority=-1),
    "policy": cutting("policy", policy=4),
    "negative policy": cutting("policy", policy=-1),
    "max_tokens over the budget": cutting("max_tokens", max_tokens=511),
    "max_tokens far over it": cutting("max_tokens", max_tokens=LARGE),
    "max_tokens 0": cutting("max_tokens", max_tokens=0),
    "max_tokens too small to cut": cutting("max_tokens", max_tokens=31),
    "min_tokens over max_tokens": cutting("min_tokens", max_tokens=100, min_tokens=101),
    "min_tokens over the default": cutting("min_tokens", min_tokens=511),
    "min_tokens 0": cutting("min_tokens", min_tokens=0),
    "dimensions 0": embedding("dimensions", dimensions=0),
    "dimensions over the model's": embedding("dimensions", dimensions=129),
    "dimensions far over them": embedding("dimensions", dimensions=LARGE),
    "data type": embedding("data_type", data_type=5),
    "pooling": embedding("pooling", pooling=3),
    "int8 of unnormalised vectors": embedding("data_type", data_type=pb.DATA_TYPE_INT8, normalize=False),
    "a span reversed": span(5, 3, "spans[0]"),
    "an empty span": span(3, 3, "spans[0]"),
    "a span over the end": span(3, 12),
    "a span far over the end": span(LARGE - 1, LARGE),
}


@pytest.mark.parametrize(("field", "fields"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_option_is_refused_and_its_field_named(server: Server, field: str, fields: dict[str, Any]) -> None:
    before = computed(server)
    text = "eleven char"
    refusal = refused(lambda: embed(server, text, **fields))
    assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", field)

    options = fields.get("options", pb.CallOptions())
    asked = {
        "document": document(text),
        "options": options,
        "tasks": [task("first"), pb.Task(embed=fields.get("embed", pb.EmbedOptions()))],
    }
    expected = (INVALID, "INVALID_OPTION", field.replace("embed.", "tasks[1].embed."))
    refusal = refused(lambda: server.inference.Analyze(pb.AnalyzeRequest(**asked), timeout=SOON))
    assert (refusal.code, refusal.reason, refusal.field) == expected
    refusal = refused(lambda: server.inference.StreamSegments(pb.StreamSegmentsRequest(**asked), timeout=SOON))
    assert (refusal.code, refusal.reason, refusal.field) == expected
    if "options" in fields:
        refusal = refused(lambda: server.inference.Segment(pb.SegmentRequest(document=document(text), options=options)))
        assert (refusal.reason, refusal.field) == ("INVALID_OPTION", field)
    assert computed(server) == before


@pytest.mark.parametrize("unit", [pb.OFFSET_UNIT_UTF8, pb.OFFSET_UNIT_UTF16])
def test_a_span_s_edge_inside_a_code_point_is_refused(server: Server, unit: int) -> None:
    for edges in ((0, 1), (1, 4)):
        wanted = task(spans=[pb.Span(start=edges[0], end=edges[1])])
        refusal = refused(lambda wanted=wanted: analyze(server, "👩👩", wanted, offset_unit=unit))  # type: ignore[misc]
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", "tasks[0].embed.spans")


def test_a_flood_of_spans_is_refused(server: Server) -> None:
    """A million spans fit a request, and a reply of one bit each; their sums would take gigabytes."""
    few = task("few", spans=[pb.Span(start=0, end=5)] * 2000, dimensions=1, data_type=pb.DATA_TYPE_BINARY)
    many = task("many", spans=[pb.Span(start=0, end=5)] * 2097, dimensions=1, data_type=pb.DATA_TYPE_BINARY)
    for call in (analyze, stream):
        refusal = refused(lambda call=call: call(server, "a word", few, many))  # type: ignore[misc]
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", "tasks[1].embed.spans")
        del many.embed.spans[-1]
        assert call(server, "a word", few, many)
        many.embed.spans.add(start=0, end=5)
    refusal = refused(lambda: embed(server, "a word", embed=pb.EmbedOptions(spans=[pb.Span(start=0, end=5)] * 4097)))
    assert refusal.field == "embed.spans"


TASKS: dict[str, tuple[list[pb.Task], str]] = {
    "none": ([], "tasks"),
    "a task without a kind": ([pb.Task(name="a")], "tasks[0].kind"),
    "two without a name": ([task(), task()], "tasks[1].name"),
    "two of one name": ([task("a"), task("b"), task("a")], "tasks[2].name"),
    "too many": ([task(str(i)) for i in range(17)], "tasks"),
}


@pytest.mark.parametrize(("tasks", "field"), TASKS.values(), ids=TASKS.keys())
def test_wrong_tasks_are_refused(server: Server, tasks: list[pb.Task], field: str) -> None:
    requests: list[tuple[Any, Message]] = [
        (server.inference.Analyze, pb.AnalyzeRequest(document=document("word"), tasks=tasks)),
        (server.inference.StreamSegments, pb.StreamSegmentsRequest(document=document("word"), tasks=tasks)),
    ]
    for call, request in requests:
        refusal = refused(lambda: call(request, timeout=SOON))  # noqa: B023
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", field)


def test_spans_go_with_one_document(server: Server) -> None:
    refusal = refused(lambda: embed(server, "one", "two", embed=pb.EmbedOptions(spans=[pb.Span(start=0, end=1)])))
    assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", "embed.spans")


def test_a_foreign_page_token_is_refused(server: Server) -> None:
    request = models_pb2.ListModelsRequest(page_token="none")  # noqa: S106
    refusal = refused(lambda: server.models.ListModels(request))
    assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", "page_token")


def test_noise_in_place_of_a_message_is_malformed(server: Server) -> None:
    channel = server.channel()
    call: Any
    for method in ("Segment", "Embed", "Analyze"):
        call = channel.unary_unary(f"/octavo.v1.InferenceService/{method}")
        assert refused(lambda call=call: call(b"\xff\xff\xff")).reason == "MALFORMED_REQUEST"  # type: ignore[misc]
    # a lone surrogate, which is not UTF-8
    text = pb.Document(text="xyz").SerializeToString().replace(b"xyz", b"\xed\xa0\x80")
    frame = b"\x0a" + bytes([len(text)]) + text
    call = channel.unary_unary("/octavo.v1.InferenceService/Segment")
    assert refused(lambda: call(frame)).reason == "MALFORMED_REQUEST"
