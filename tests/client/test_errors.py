"""From google.rpc.Status to exceptions."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from octavo.client import errors
from tests.client.conftest import Caller
from tests.client.double import Double, Fault


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_OPTION"), errors.InvalidArgument),
        (Fault(grpc.StatusCode.INVALID_ARGUMENT, reason="EMPTY_DOCUMENT"), errors.InvalidArgument),
        (Fault(grpc.StatusCode.INVALID_ARGUMENT, reason="DOCUMENT_TOO_LARGE"), errors.DocumentTooLarge),
        (Fault(grpc.StatusCode.INVALID_ARGUMENT, reason="REPLY_TOO_LARGE"), errors.ReplyTooLarge),
        (Fault(grpc.StatusCode.NOT_FOUND, reason="UNKNOWN_MODEL"), errors.UnknownModel),
        (Fault(grpc.StatusCode.NOT_FOUND), errors.NotFound),
        (Fault(grpc.StatusCode.FAILED_PRECONDITION, reason="FINGERPRINT_MISMATCH"), errors.FingerprintMismatch),
        (Fault(grpc.StatusCode.FAILED_PRECONDITION, reason="CURSOR_MISMATCH"), errors.FailedPrecondition),
        (Fault(grpc.StatusCode.UNAUTHENTICATED), errors.Unauthenticated),
        (Fault(grpc.StatusCode.PERMISSION_DENIED), errors.PermissionDenied),
        (Fault(grpc.StatusCode.RESOURCE_EXHAUSTED), errors.ResourceExhausted),
        (Fault(grpc.StatusCode.UNAVAILABLE, pushback="-1"), errors.Unavailable),
        (Fault(grpc.StatusCode.DEADLINE_EXCEEDED, reason="DEADLINE"), errors.DeadlineExceeded),
        (Fault(grpc.StatusCode.CANCELLED), errors.Cancelled),
        (Fault(grpc.StatusCode.INTERNAL, reason="INTERNAL"), errors.ServerError),
        (Fault(grpc.StatusCode.UNIMPLEMENTED), errors.ServerError),
        (Fault(grpc.StatusCode.DATA_LOSS), errors.ServerError),
    ],
)
def test_each_fault_has_its_exception(call: Caller, double: Double, fault: Fault, kind: type[Exception]) -> None:
    double.faults.append(fault)
    with pytest.raises(errors.OctavoError) as caught:
        call("embed", "text")
    assert type(caught.value) is kind
    assert caught.value.code is fault.code
    assert caught.value.reason == fault.reason
    assert caught.value.request_id == ("r-9" if fault.reason else "")
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_every_code_has_an_exception_and_every_exception_is_in_the_drawn_tree() -> None:
    for code in grpc.StatusCode:
        assert isinstance(errors.from_status(Status(code=code.value[0])), errors.OctavoError)

    def names(kind: type[errors.OctavoError]) -> set[str]:
        return {kind.__name__}.union(*map(names, kind.__subclasses__()))

    drawn = {word for word in (errors.__doc__ or "").split() if word.isidentifier()}
    assert names(errors.OctavoError) <= drawn


def test_an_error_is_one_line_that_names_the_field(call: Caller, double: Double) -> None:
    double.faults.append(
        Fault(grpc.StatusCode.INVALID_ARGUMENT, "two\nlines", "INVALID_OPTION", field="options.window")
    )
    with pytest.raises(errors.InvalidArgument) as caught:
        call("embed", "text")
    assert str(caught.value) == "two lines (options.window: is wrong)"
    assert caught.value.violations == (errors.FieldViolation("options.window", "is wrong"),)


def test_what_the_message_says_is_not_said_twice() -> None:
    def said(message: str) -> str:
        return str(errors.InvalidArgument(message, violations=[errors.FieldViolation("a.b", "is wrong")]))

    assert said("it is wrong") == "it is wrong (a.b)"
    assert said("a.b is wrong") == "a.b is wrong"


def test_an_error_without_words_still_says_something() -> None:
    assert str(errors.from_status(Fault(grpc.StatusCode.NOT_FOUND, "", "UNKNOWN_MODEL").status())) == "UNKNOWN_MODEL"
    assert str(errors.Unavailable("")) == "Unavailable"


def test_details_of_other_domains_and_kinds_are_passed_over() -> None:
    status = Status(code=5, message="gone", details=[Any(type_url="type.googleapis.com/unknown.Kind", value=b"\xff")])
    status.details.add().Pack(ErrorInfo(reason="UNKNOWN_MODEL", domain="elsewhere.example"))
    error = errors.from_status(status)
    assert type(error) is errors.NotFound
    assert error.reason == ""
