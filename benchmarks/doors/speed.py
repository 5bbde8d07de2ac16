"""One short text, and many texts a call: HTTP over gRPC, against the same server, in turns."""

import json
from collections.abc import Sequence

import grpc

from benchmarks.doors.web import web
from benchmarks.figures import Figures
from benchmarks.race import Run, raced, timed
from benchmarks.statistics import percentile_ms, ratio
from benchmarks.workloads import with_tokens
from chunking import load_tokenizer
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceServiceStub
from server.config.schema import ModelSettings

MODEL = "all-MiniLM-L6-v2"
SHORT, LONG, TEXTS = 16, 300, 64  # tokens of a text, and texts of a call
MANY_ROUNDS = 12
_TIMEOUT = 300.0


def measure(rounds: int) -> Figures:
    """Time both; the cache is off, and every text is sent as a client would make it: encoded anew."""
    texts = with_tokens([SHORT, LONG], load_tokenizer(ModelSettings(path=MODEL).folder))
    config = f'models = ["{MODEL}"]\n[cache]\nenabled = false'
    with web(config) as (served, connection), grpc.insecure_channel(served.address) as channel:
        stub = InferenceServiceStub(channel)

        def over_http(asked: Sequence[str]) -> Run:
            body = {"model": MODEL, "input": asked, "encoding_format": "base64"}
            return timed(lambda: connection.post("/v1/embeddings", json.dumps(body).encode()).json)

        def over_grpc(asked: Sequence[str]) -> Run:
            documents = [pb.Document(text=text) for text in asked]
            return timed(lambda: stub.Embed(pb.EmbedRequest(documents=documents), timeout=_TIMEOUT))

        one, many = [texts[SHORT]], [texts[LONG]] * TEXTS
        short = raced({"http": over_http(one), "grpc": over_grpc(one)}, rounds)
        long = raced({"http": over_http(many), "grpc": over_grpc(many)}, MANY_ROUNDS)
    return {
        "http_overhead": ratio(short["http"], short["grpc"]),
        "http_throughput": ratio(long["grpc"], long["http"]),
        **{f"one_text_ms.{name}": percentile_ms(seconds) for name, seconds in short.items()},
        **{f"many_texts_ms.{name}": percentile_ms(seconds) for name, seconds in long.items()},
    }
