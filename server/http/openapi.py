"""The OpenAPI document of all paths, made from the contract's descriptors and the dialects' bodies."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from pydantic_core import to_json

from server.http import cohere, openai, rerank, tei_bodies
from server.http.reading import Body
from server.http.rpc_json import Method

SCHEMAS = "#/components/schemas/"
BODIES: dict[str, type[Body]] = {
    "/v1/embeddings": openai.EmbeddingsBody,
    "/v1/rerank": rerank.RerankBody,
    "/v2/embed": cohere.EmbedBody,
    "/v2/rerank": rerank.RerankBody,
    "/embed": tei_bodies.EmbedBody,
    "/embed_all": tei_bodies.EmbedPartsBody,
    "/embed_sparse": tei_bodies.EmbedPartsBody,
    "/predict": tei_bodies.PredictBody,
    "/rerank": tei_bodies.RerankBody,
    "/similarity": tei_bodies.SimilarityBody,
    "/tokenize": tei_bodies.TokenizeBody,
    "/decode": tei_bodies.DecodeBody,
}
READ = ("/v1/models", "/v1/models/{model}", "/info", "/health", "/ping")
ARRAYS = {"/embed", "/embed_all", "/embed_sparse", "/predict", "/rerank", "/similarity", "/tokenize", "/decode"}
WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Duration": {"type": "string"},
    "google.protobuf.Any": {"type": "object", "additionalProperties": True},
}
SCALARS: dict[int, dict[str, Any]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "minimum": -(1 << 31), "maximum": (1 << 31) - 1},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1},
    FieldDescriptor.CPPTYPE_INT64: {"type": ["string", "integer"], "format": "int64", "pattern": r"^-?\d{1,18}$",
                                    "minimum": -(1 << 53), "maximum": 1 << 53},
    FieldDescriptor.CPPTYPE_UINT64: {"type": ["string", "integer"], "format": "uint64", "pattern": r"^\d{1,19}$",
                                     "minimum": 0, "maximum": 1 << 53},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number", "format": "float", "minimum": -3e38, "maximum": 3e38},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
}  # fmt: skip


def document(methods: Sequence[Method]) -> bytes:
    """The document as JSON."""
    schemas: dict[str, Any] = {}
    paths = {method.path: {"post": _method(method, schemas)} for method in methods}
    paths |= {path: {"post": _dialect(path, body, schemas)} for path, body in BODIES.items()}
    paths |= {path: {"get": _read(path)} for path in READ}
    return to_json(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Octavo",
                "version": version("octavo"),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{}, {"key": []}],
        }
    )


def _method(method: Method, schemas: dict[str, Any]) -> dict[str, Any]:
    descriptor = method.descriptor
    asked, answered = (_reference(kind, schemas) for kind in (descriptor.input_type, descriptor.output_type))
    request = "application/x-ndjson" if descriptor.client_streaming else "application/json"
    response = {"text/event-stream": {"schema": {"type": "string"}}} if descriptor.server_streaming else {
        "application/json": {"schema": answered}
    }  # fmt: skip
    body = {"schema": {"type": "string"}} if descriptor.client_streaming else {"schema": asked}
    return {
        "operationId": descriptor.name,
        "tags": [descriptor.containing_service.name],
        "summary": (method.behaviour.__doc__ or "").strip().partition("\n")[0],
        "requestBody": {"required": True, "content": {request: body}},
        "responses": _responses(response),
    }


def _dialect(path: str, body: type[Body], schemas: dict[str, Any]) -> dict[str, Any]:
    tag = body.__module__.rpartition(".")[2].removesuffix("_bodies")
    name = tag.capitalize() + body.__name__
    schema = body.model_json_schema(ref_template=SCHEMAS + "{model}") | {"title": name}
    schemas |= schema.pop("$defs", {})
    schemas[name] = schema
    kind = "array" if path in ARRAYS else "object"
    items: dict[str, Any] = {"items": {}} if kind == "array" else {}
    return {
        "operationId": "post_" + path.strip("/").replace("/", "_"),
        "tags": [tag],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": SCHEMAS + name}}}},
        "responses": _responses({"application/json": {"schema": {"type": kind, **items}}}),
    }


def _read(path: str) -> dict[str, Any]:
    name = path.strip("/").replace("/", "_").replace("{", "").replace("}", "")
    parameters = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    ] if "{" in path else []  # fmt: skip
    content = {} if path in {"/health", "/ping"} else {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": "get_" + name,
        "tags": ["server"],
        "parameters": parameters,
        "responses": _responses(content),
    }


def _responses(content: dict[str, Any]) -> dict[str, Any]:
    ok = {"description": "The answer.", **({"content": content} if content else {})}
    fault = {
        "description": "An error; see docs/errors.md.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
    return {"200": ok, "default": fault}


def _reference(kind: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    """A message's schema, made once."""
    if kind.full_name in WELL_KNOWN:
        return WELL_KNOWN[kind.full_name]
    name = kind.full_name.removeprefix("octavo.v1.").replace(".", "_")
    if name not in schemas:
        schemas[name] = {}  # it may have itself inside
        properties = {field.json_name: _field(field, schemas) for field in kind.fields}
        schemas[name] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$ref": SCHEMAS + name}


def _field(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    each = _value(field, schemas)
    return {"type": "array", "items": each} if field.is_repeated else each


def _value(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type:
        return _reference(field.message_type, schemas)
    if field.enum_type:
        return _enum(field.enum_type, schemas)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {"type": "string", "contentEncoding": "base64"}
    return SCALARS.get(field.cpp_type, {"type": "string"})


def _enum(kind: EnumDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    schemas[kind.name] = {"type": "string", "enum": [value.name for value in kind.values]}
    return {"$ref": SCHEMAS + kind.name}
