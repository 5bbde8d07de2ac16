"""A ModelInferRequest's texts, task and options."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from octavo.v1 import inference_pb2 as pb
from server.auth.clients import Client
from server.errors import InvalidCall
from server.inference.models import Catalogue, ServedModel
from server.inference.truncation import Keep
from server.kserve.outputs import ENCODINGS, QUERY, TEXT, TOKEN_COUNT, Encoding, Kind, outputs_of
from server.kserve.tensors import texts_of
from server.v1.requests import DATA_TYPES, Limits

T = TypeVar("T")

INPUT_TYPES = {"query": pb.INPUT_TYPE_QUERY, "passage": pb.INPUT_TYPE_PASSAGE}
TRUNCATE: dict[str, Keep | None] = {"NONE": None, "END": "first", "START": "last"}
MICROSECOND = 1e-6
BULK = 2  # Triton's priorities count down in importance from 1; 0 is the server's choice

MOST = (1 << 32) - 1  # that a field of octavo.v1 can hold; nothing is so large

NAMES = {str: "a string", int: "an integer", bool: "a boolean", float: "a number"}
PARAMETERS: dict[str, type] = {
    "input_type": str,
    "truncate": str,
    "timeout": int,
    "priority": int,
    "binary_data_output": bool,  # of the HTTP form
    "triton_enable_empty_final_response": bool,  # no response is empty
}
OF_TASK: dict[Kind, dict[str, type]] = {
    "embed": {"dimensions": int, "embedding_type": str},
    "classify": {"top_k": int},
    "classify_tokens": {"min_score": float},
    "redact": {"min_score": float, "mask": str},
    "embed_sparse": {"top_k": int},
    "rank": {},
}
FIELDS = {  # of octavo.v1, which checks them
    "embed.dimensions": "parameters.dimensions",
    "embed.data_type": "parameters.embedding_type",
    "classify_tokens.min_score": "parameters.min_score",
    "redact.entities.min_score": "parameters.min_score",
    "redact.mask": "parameters.mask",
    "rank.query": QUERY,
}


@dataclass(frozen=True, slots=True)
class Inference:
    """What a request wants.

    Attributes:
        outputs: names, in the order of the response.
        task, options: in octavo.v1's words.
        keep: which tokens of a text that is too long for the model at once; None: all of them.
        seconds: until its deadline, from now.
    """

    texts: Sequence[str]
    outputs: Sequence[str]
    task: pb.Task
    options: pb.CallOptions
    encoding: Encoding
    keep: Keep | None
    seconds: float | None


def reference(name: str, version: str) -> str:
    """A model's reference as the catalogue takes it."""
    return f"{name}@{version}" if version else name


def read(request: Any, catalogue: Catalogue, client: Client, limits: Limits) -> Inference:
    """Read a request.

    Raises:
        UnknownModel, PermissionDenied, InvalidCall: the field at fault is named.
    """
    model = catalogue.resolve(reference(request.model_name, request.model_version), client)
    texts = texts_of(request, limits)
    kind, outputs = _outputs(request, model, asks=QUERY in texts)
    wanted = {TEXT, QUERY} if kind == "rank" else {TEXT}
    if texts.keys() != wanted:
        raise InvalidCall("inputs", f"{kind} takes the inputs {' and '.join(sorted(wanted))}")
    if kind == "rank" and len(texts[QUERY]) != 1:
        raise InvalidCall(QUERY, "a request has one query")
    given = _parameters(request.parameters, PARAMETERS | OF_TASK[kind])
    encoding = _choice(given, "embedding_type", ENCODINGS, ENCODINGS["float"])
    passage = pb.INPUT_TYPE_PASSAGE if kind == "rank" else pb.INPUT_TYPE_UNSPECIFIED
    return Inference(
        texts[TEXT],
        outputs,
        _task(kind, given, model.name, encoding, texts.get(QUERY, [""])[0]),
        pb.CallOptions(
            model=model.name,
            input_type=_choice(given, "input_type", INPUT_TYPES, passage),
            priority=pb.PRIORITY_BULK if given.get("priority", 0) >= BULK else pb.PRIORITY_UNSPECIFIED,
        ),
        encoding,
        _choice(given, "truncate", TRUNCATE, None),
        given["timeout"] * MICROSECOND if given.get("timeout") else None,
    )


@contextmanager
def named_fields() -> Iterator[None]:
    """Let messages name the field, as this protocol calls it: its clients show nothing else."""
    try:
        yield
    except InvalidCall as error:
        error.field = FIELDS.get(error.field, error.field)
        if error.field:
            error.args = (f"{error.field}: {error}",)
        raise


def _outputs(request: Any, model: ServedModel, *, asks: bool) -> tuple[Kind, list[str]]:
    """The kind of task, and its outputs in the order of the response."""
    known = outputs_of(model)
    kinds: dict[str, Kind] = {output.name: kind for kind, outputs in known.items() for output in outputs}
    names = [output.name for output in request.outputs]
    for i, output in enumerate(request.outputs):
        if output.name not in kinds and output.name != TOKEN_COUNT:
            raise InvalidCall(f"outputs[{i}].name", f"{model.name} has the outputs {', '.join([*kinds, TOKEN_COUNT])}")
        if output.name in names[:i]:
            raise InvalidCall(f"outputs[{i}].name", "an output is asked for once")
        if set(output.parameters) - {"binary_data"}:
            message = "outputs take none: classification and shared memory are not supported"
            raise InvalidCall(f"outputs[{i}].parameters", message)
    wanted = list(dict.fromkeys(kinds[name] for name in names if name != TOKEN_COUNT))
    if len(wanted) > 1:
        raise InvalidCall("outputs", f"a request has one task: these are of {' and '.join(wanted)}")
    kind: Kind = wanted[0] if wanted else "rank" if asks else next(iter(known))
    return kind, names or [*(output.name for output in known[kind]), TOKEN_COUNT]


def _parameters(given: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    """The parameters' values, of the types that they must have."""
    values: dict[str, Any] = {}
    value: Any
    for name, parameter in given.items():
        field = f"parameters.{name}" if name in known else "parameters"
        if name not in known:
            raise InvalidCall(field, f"known for this task are {', '.join(known)}")
        choice = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, choice) if choice else None
        wanted = known[name]
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise InvalidCall(field, f"it is {NAMES[wanted]}")
        if isinstance(value, int) and value < 0:
            raise InvalidCall(field, "it is not negative")
        values[name] = value
    return values


def _choice(given: Mapping[str, Any], name: str, choices: Mapping[str, T], default: T) -> T:
    if name not in given:
        return default
    if given[name] not in choices:
        raise InvalidCall(f"parameters.{name}", f"it is one of {', '.join(choices)}")
    return choices[given[name]]


def _task(kind: Kind, given: Mapping[str, Any], model: str, encoding: Encoding, query: str) -> pb.Task:
    entities = pb.ClassifyTokensOptions(min_score=given.get("min_score", 0.0))
    top_k = min(given.get("top_k", 0), MOST)
    match kind:
        case "embed":
            data_type = pb.DataType.Name(DATA_TYPES.index(encoding.data_type, 1))
            dimensions = min(given["dimensions"], MOST) if "dimensions" in given else None
            return pb.Task(model=model, embed=pb.EmbedOptions(dimensions=dimensions, data_type=data_type))
        case "classify":
            return pb.Task(model=model, classify=pb.ClassifyOptions(top_k=top_k))
        case "classify_tokens":
            return pb.Task(model=model, classify_tokens=entities)
        case "redact":
            return pb.Task(model=model, redact=pb.RedactOptions(entities=entities, mask=given.get("mask")))
        case "embed_sparse":
            return pb.Task(model=model, embed_sparse=pb.EmbedSparseOptions(top_k=top_k))
        case "rank":
            return pb.Task(model=model, rank=pb.RankOptions(query=query, passages=1))
