"""What a user of tritonclient does, in its own environment: reads a plan from standard input, prints what came back.

Nothing here knows Octavo: these are calls as tritonclient's documentation has them.
"""

import asyncio
import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
            },
        }
    ]
}


def inputs_of(module: Any, texts: list[str]) -> list[Any]:
    tensor = module.InferInput("text", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    return [tensor]


def outputs_of(module: Any) -> list[Any]:
    return [module.InferRequestedOutput(name) for name in ("token_count", "embeddings")]


def answer_of(result: Any) -> dict[str, Any]:
    vectors, tokens = result.as_numpy("embeddings"), result.as_numpy("token_count")
    return {"vectors": vectors.astype("<f4").tobytes().hex(), "shape": vectors.shape, "tokens": tokens.tolist()}


def fault_of(error: InferenceServerException) -> dict[str, Any]:
    return {"status": error.status(), "message": error.message()}


def describe(client: Any, model: str) -> dict[str, Any]:
    metadata = client.get_model_metadata(model, as_json=True)
    config = client.get_model_config(model, as_json=True)
    statistics = client.get_inference_statistics(model, as_json=True)
    index = client.get_model_repository_index(as_json=True)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "none_ready": client.is_model_ready("none"),
        "server": client.get_server_metadata(as_json=True)["name"],
        "outputs": [output["name"] for output in metadata["outputs"]],
        "config": config["config"]["name"],
        "statistics": statistics["model_stats"][0]["name"],
        "index": [each["name"] for each in index["models"]],
    }


def infer(client: Any, model: str, texts: list[str], **options: Any) -> dict[str, Any]:
    return answer_of(client.infer(model, inputs_of(triton, texts), outputs=outputs_of(triton), **options))


def infer_with_callbacks(client: Any, model: str, texts: list[str]) -> list[dict[str, Any]]:
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for number in range(4):
        client.async_infer(
            model, inputs_of(triton, texts), lambda result, error: done.put((result, error)), request_id=str(number)
        )
    return [answer_of(result) if error is None else fault_of(error) for result, error in (done.get() for _ in range(4))]


async def infer_in_asyncio(address: str, model: str, texts: list[str], parameters: dict[str, Any]) -> dict[str, Any]:
    async with triton_aio.InferenceServerClient(address) as client:
        result = await client.infer(
            model, inputs_of(triton_aio, texts), outputs=outputs_of(triton_aio), parameters=parameters
        )
        return answer_of(result)


def infer_in_a_stream(client: Any, model: str, texts: list[str]) -> list[dict[str, Any]]:
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: done.put((result, error)))
    for text in texts:
        client.async_stream_infer(model, inputs_of(triton, [text]), outputs=outputs_of(triton), priority=1)
    answers = [done.get() for _ in texts]
    client.stop_stream()
    return [answer_of(result) if error is None else fault_of(error) for result, error in answers]


def fault(client: Any, model: str, texts: list[str], **options: Any) -> dict[str, Any]:
    try:
        client.infer(model, inputs_of(triton, texts), **options)
    except InferenceServerException as error:
        return fault_of(error)
    return {}


def everything(client: Any, address: str, model: str, texts: list[str]) -> dict[str, Any]:
    parameters = {"input_type": "passage", "truncate": "NONE"}
    said = {
        "described": describe(client, model),
        "infer": infer(client, model, texts, parameters=parameters),
        "compressed": infer(client, model, texts, parameters=parameters, compression_algorithm="gzip"),
        "callbacks": infer_with_callbacks(client, model, texts),
        "asyncio": asyncio.run(infer_in_asyncio(address, model, texts, parameters)),
        "stream": infer_in_a_stream(client, model, [texts[0], "", texts[1]]),
        "unknown": fault(client, "none", texts),
        "late": fault(client, model, texts, timeout=1),
        "bad": fault(client, model, texts, parameters={"dimensions": 100_000}),
    }
    try:
        client.load_model(model)
    except InferenceServerException as error:
        said["load"] = fault_of(error)
    return said


def limits(client: Any, address: str, model: str, texts: list[str], plan: dict[str, Any]) -> dict[str, Any]:
    key = {"authorization": f"Bearer {plan['key']}"}
    retrying = [("grpc.service_config", json.dumps(RETRIES))]
    with triton.InferenceServerClient(address, channel_args=retrying) as patient:
        return {
            "patient": [infer(patient, model, texts, headers=key) for _ in range(plan.get("patient_calls", 0))],
            "impatient": [fault(client, model, texts, headers=key) for _ in range(plan.get("impatient_calls", 0))],
            "stranger": fault(client, model, texts),
        }


def main() -> None:
    plan = json.load(sys.stdin)
    address, model, texts = plan["address"], plan["model"], plan["texts"]
    with triton.InferenceServerClient(address) as client:
        if "key" in plan:
            said = limits(client, address, model, texts[:1], plan)
        else:
            said = everything(client, address, model, texts)
    json.dump(said, sys.stdout)


main()
