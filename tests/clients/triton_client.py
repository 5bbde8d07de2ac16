"""What a user of `tritonclient` does: calls, also with callbacks and in asyncio, and a stream. Nothing knows Octavo."""

import asyncio
import json
import queue
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

LIMITED = ("text 0", "text 1", "text 2")
PAUSE_SECONDS = 1.1  # after which the slow key has a call to spend
RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.1s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
}
SERVICE = {"name": [{"service": "inference.GRPCInferenceService"}], "retryPolicy": RETRIES}
PATIENT = [("grpc.service_config", json.dumps({"methodConfig": [SERVICE]}))]


def inputs_of(texts: list[str], module: Any = triton) -> list[Any]:
    tensor = module.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    return [tensor]


def vectors_of(result: Any) -> list[str]:
    return [row.astype("<f4").tobytes().hex() for row in result.as_numpy("embeddings")]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def fault_of(client: Any, texts: list[str], **options: Any) -> str:
    """Status and message of a call that fails."""
    try:
        client.infer(inputs=inputs_of(texts), **options)
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    return ""


def synchronous(plan: dict[str, Any]) -> dict[str, Any]:
    model, headers = plan["model"], bearer(plan["key"])
    with triton.InferenceServerClient(plan["address"]) as client:
        outputs = [triton.InferRequestedOutput(name) for name in ("token_count", "embeddings")]
        result = client.infer(model, inputs_of(plan["texts"]), outputs=outputs, headers=headers)
        compressed = client.infer(model, inputs_of(plan["texts"]), headers=headers, compression_algorithm="gzip")
        fault = fault_of(client, plan["texts"], model_name="none", headers=headers)
    with triton.InferenceServerClient(plan["address"], channel_args=PATIENT) as limited:
        began = time.monotonic()
        answers = [limited.infer(model, inputs_of([text]), headers=bearer(plan["slow_key"])) for text in LIMITED]
    return {
        "vectors": vectors_of(result),
        "same_compressed": vectors_of(compressed) == vectors_of(result),
        "tokens": result.as_numpy("token_count").tolist(),
        "fault": fault,
        "answered": len(answers),
        "seconds": time.monotonic() - began,
    }


async def asynchronous(plan: dict[str, Any]) -> dict[str, Any]:
    model, headers = plan["model"], bearer(plan["key"])
    async with triton_aio.InferenceServerClient(plan["address"]) as client:
        result = await client.infer(model, inputs_of(plan["texts"], triton_aio), headers=headers)
        try:
            await client.infer(model, inputs_of([""], triton_aio), headers=headers)
            fault = ""
        except InferenceServerException as error:
            fault = str(error)
    await asyncio.sleep(PAUSE_SECONDS)
    async with triton_aio.InferenceServerClient(plan["address"], channel_args=PATIENT) as limited:
        began = time.monotonic()
        slow = bearer(plan["slow_key"])
        answers = [await limited.infer(model, inputs_of([text], triton_aio), headers=slow) for text in LIMITED]
    return {
        "vectors": vectors_of(result),
        "fault": fault,
        "answered": len(answers),
        "seconds": time.monotonic() - began,
    }


class Stream:
    """A stream of requests; iterating it gives an answer or an error each."""

    def __init__(self, client: Any, model: str, key: str) -> None:
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._client, self._model = client, model
        client.start_stream(lambda result, error: self._done.put((result, error)), headers=bearer(key))

    def ask(self, text: str) -> Any:
        self._client.async_stream_infer(self._model, inputs_of([text]))

    def answers(self, count: int) -> Iterator[tuple[Any, InferenceServerException | None]]:
        return (self._done.get() for _ in range(count))


def streaming(plan: dict[str, Any]) -> dict[str, Any]:
    texts = [plan["texts"][0], "", *plan["texts"][1:]]
    with triton.InferenceServerClient(plan["address"]) as client:
        stream = Stream(client, plan["model"], plan["key"])
        for text in texts:
            stream.ask(text)
        answers = list(stream.answers(len(texts)))
        client.stop_stream()
        time.sleep(PAUSE_SECONDS)
        stream = Stream(client, plan["model"], plan["slow_key"])
        began, answered = time.monotonic(), 0
        for text in LIMITED:
            for _ in range(3):
                stream.ask(text)
                ((_, error),) = stream.answers(1)
                if error is None:
                    answered += 1
                    break
                time.sleep(float(re.findall(r"try again in (\S+) s", error.message())[0]))
        client.stop_stream()
    return {
        "vectors": [vectors_of(result)[0] for result, error in answers if error is None],
        "fault": "; ".join(error.message() for _, error in answers if error is not None),
        "answered": answered,
        "seconds": time.monotonic() - began,
    }


def callbacks(plan: dict[str, Any]) -> list[list[str]]:
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with triton.InferenceServerClient(plan["address"]) as client:
        for _ in range(4):
            client.async_infer(
                plan["model"],
                inputs_of(plan["texts"]),
                lambda result, error: done.put(error or result),
                headers=bearer(plan["key"]),
            )
        return [vectors_of(done.get()) for _ in range(4)]


def described(plan: dict[str, Any]) -> dict[str, Any]:
    model, headers = plan["model"], bearer(plan["key"])
    with triton.InferenceServerClient(plan["address"]) as client:
        metadata = client.get_model_metadata(model, as_json=True, headers=headers)
        statistics = client.get_inference_statistics(model, as_json=True, headers=headers)
        index = client.get_model_repository_index(as_json=True, headers=headers)
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model, headers=headers),
            "none_ready": client.is_model_ready("none", headers=headers),
            "server": client.get_server_metadata(as_json=True, headers=headers)["name"],
            "outputs": [output["name"] for output in metadata["outputs"]],
            "config": client.get_model_config(model, as_json=True, headers=headers)["config"]["name"],
            "statistics": statistics["model_stats"][0]["name"],
            "index": [each["name"] for each in index["models"]],
        }


def faults(plan: dict[str, Any]) -> dict[str, str]:
    model, texts, headers = plan["model"], plan["texts"], bearer(plan["key"])
    slow = {"model_name": model, "headers": bearer(plan["slow_key"])}
    with triton.InferenceServerClient(plan["address"]) as client:
        said = {
            "late": fault_of(client, texts, model_name=model, headers=headers, timeout=1),
            "bad": fault_of(client, texts, model_name=model, headers=headers, parameters={"dimensions": 100_000}),
            "stranger": fault_of(client, texts, model_name=model, headers=bearer("oct_none")),
            "impatient": next(filter(None, (fault_of(client, ["text"], **slow) for _ in range(8))), ""),
        }
        try:
            client.load_model(model, headers=headers)
        except InferenceServerException as error:
            said["load"] = f"{error.status()}: {error.message()}"
    return said


if __name__ == "__main__":
    given = json.load(sys.stdin)
    said: dict[str, Any] = {
        "triton": synchronous(given),
        "triton-async": asyncio.run(asynchronous(given)),
        "triton-stream": streaming(given),
        "callbacks": callbacks(given),
        "described": described(given),
        "faults": faults(given),
    }
    print(json.dumps(said))
