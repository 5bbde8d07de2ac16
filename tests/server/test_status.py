"""Exceptions become statuses: none is forgotten, none says too much, all are documented."""

import re
from pathlib import Path

import grpc
import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo

from cache.errors import CacheError
from chunking import ChunkingError, CuttingError, OffsetError, TextError, TokenizerError
from encoder.errors import EncoderError
from server import errors
from server.errors import CallError, Refused
from server.http.tei import STATUS
from server.rpc.status import CODES, trailers_of
from server.status import MAPPING, Reason, reason_of, status_of
from tests.server.helpers import refusal_of_status

REQUEST_ID = "0123456789abcdef0123456789abcdef"
SECRET = "SECRET TEXT"  # noqa: S105 - of a document
DOCUMENTED = Path(__file__).parents[2] / "docs" / "errors.md"

# Of the leaves: what a caller's text or options can bring about.
REACH_A_CALL: set[type[Exception]] = {CuttingError, OffsetError, TextError}


def tree(root: type[Exception]) -> set[type[Exception]]:
    """An exception's subclasses of all generations, apart from those of tests."""
    own = {kind for kind in root.__subclasses__() if not kind.__module__.startswith("test")}
    return own.union(*(tree(kind) for kind in own))


def by_name(kinds: set[type[Exception]]) -> list[type[Exception]]:
    return sorted(kinds, key=lambda kind: str(kind.__name__))


def documented() -> dict[str, list[str]]:
    """The rows of the document's table by reason."""
    section = DOCUMENTED.read_text().partition("## Reasons")[2].partition("\n## ")[0]
    rows = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in section.splitlines() if line.startswith("| `")]
    assert len({row[0] for row in rows}) == len(rows), "a reason is there twice"
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.mark.parametrize("kind", by_name(tree(CallError) - {Refused}))
def test_every_call_error_has_a_status_of_its_own(kind: type[Exception]) -> None:
    assert reason_of(kind.__new__(kind))[1] is not Reason.INTERNAL


@pytest.mark.parametrize("kind", by_name(REACH_A_CALL))
def test_a_leaf_s_error_that_can_reach_a_call_is_the_caller_s_fault(kind: type[Exception]) -> None:
    assert reason_of(kind.__new__(kind)) == (Code.INVALID_ARGUMENT, Reason.INVALID_OPTION)


def test_every_leaf_s_error_is_known_to_reach_a_call_or_not() -> None:
    """A new one must be sorted here."""
    assert tree(ChunkingError) == REACH_A_CALL | {TokenizerError}  # that one ends a start
    for kind in tree(EncoderError) | tree(CacheError):
        # Batches are made by us and states kept by us: at a call these would be bugs.
        assert reason_of(kind.__new__(kind))[1] is Reason.INTERNAL, kind


def test_every_reason_is_used() -> None:
    assert {row.reason for row in MAPPING} == set(Reason)


def test_no_row_hides_a_narrower_one_behind_it() -> None:
    kinds = [row.error for row in MAPPING]
    hidden = [(kind, wide) for i, kind in enumerate(kinds) for wide in kinds[:i] if issubclass(kind, wide)]
    assert not hidden


def test_reasons_are_spelt_as_they_are_named() -> None:
    assert all(reason.value == reason.name for reason in Reason)


class _Field(RuntimeError):
    field = SECRET


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
        _Field(SECRET),
        ExceptionGroup(SECRET, [ValueError(SECRET)]),
        errors.StartError(SECRET),
        MemoryError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_internal_says_nothing_of_the_exception(error: BaseException) -> None:
    status = status_of(error, REQUEST_ID)
    refusal = refusal_of_status(status)
    assert (refusal.code, refusal.reason, refusal.field) == (grpc.StatusCode.INTERNAL, "INTERNAL", "")
    assert REQUEST_ID in refusal.message
    said = repr(trailers_of(status)) + str(status)
    assert "SECRET" not in said
    assert type(error).__name__ not in said.replace("INTERNAL", "")


def test_a_field_at_fault_is_named() -> None:
    refusal = refusal_of_status(status_of(errors.InvalidCall("options.window", "too wide"), REQUEST_ID))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (refusal.reason, refusal.field, refusal.message) == ("INVALID_OPTION", "options.window", "too wide")


def test_a_text_that_cannot_be_is_told_by_its_position_alone() -> None:
    refusal = refusal_of_status(status_of(TextError(17), REQUEST_ID))
    assert refusal.message == "lone surrogate at code point 17"


@pytest.mark.parametrize("kind", by_name(tree(CallError) - tree(Refused) - {Refused}))
def test_what_would_fail_again_forbids_a_retry(kind: type[Exception]) -> None:
    trailers = dict(trailers_of(status_of(kind.__new__(kind), REQUEST_ID)))
    assert trailers["grpc-retry-pushback-ms"] == "-1"


def test_a_call_that_never_fits_is_not_tried_again() -> None:
    status = status_of(errors.QueueFull("too long for its deadline"), REQUEST_ID)
    assert dict(trailers_of(status))["grpc-retry-pushback-ms"] == "-1"
    assert not [detail for detail in status.details if detail.Is(RetryInfo.DESCRIPTOR)]


def test_who_stops_leaves_the_wait_to_the_client() -> None:
    trailers = dict(trailers_of(status_of(errors.Draining("stopping"), REQUEST_ID)))
    assert "grpc-retry-pushback-ms" not in trailers


def test_a_known_delay_is_told_to_stock_and_to_other_clients() -> None:
    status = status_of(errors.QueueFull("full", retry_after=1.5), REQUEST_ID)
    hints = [hint for packed in status.details if packed.Unpack(hint := RetryInfo())]
    assert [hint.retry_delay.ToMilliseconds() for hint in hints] == [1500]
    assert dict(trailers_of(status))["grpc-retry-pushback-ms"] == "1500"


def test_the_document_has_every_reason_and_no_other() -> None:
    assert set(documented()) == set(Reason)


def test_the_document_has_each_reason_s_code() -> None:
    codes = {str(row.reason): CODES[row.code].name for row in MAPPING}
    assert {reason: row[0].strip("`") for reason, row in documented().items()} == codes


def test_the_document_says_of_each_reason_when_what_to_do_and_whether_to_retry() -> None:
    refused = {row.reason for row in MAPPING if issubclass(row.error, Refused)}
    for reason, (_, when, what, retry) in documented().items():
        assert when.endswith("."), reason
        assert what.endswith("."), reason
        assert retry.split(",")[0] == ("yes" if reason in refused else "no"), reason


def test_the_document_has_each_reasons_form_over_http() -> None:
    section = DOCUMENTED.read_text().partition("## Over HTTP")[2].partition("\n## ")[0]
    rows = {tuple(re.findall(r"[\w]+", line)) for line in section.splitlines() if line.startswith("| `")}
    assert rows == {(row.reason, str(row.http), row.openai, row.tei, str(STATUS[row.tei])) for row in MAPPING}
