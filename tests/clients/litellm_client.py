"""What a user of `litellm` does. Nothing here knows Octavo."""

import json
import struct
import sys
import time
from typing import Any

import litellm


def hexed(vector: list[float]) -> str:
    return struct.pack(f"<{len(vector)}f", *vector).hex()


def embed(plan: dict[str, Any], key: str, model: str, texts: list[str]) -> list[list[float]]:
    reply = litellm.embedding(
        model=f"openai/{model}", input=texts, api_base=plan["url"] + "/v1", api_key=key, max_retries=5
    )
    return [each["embedding"] for each in reply.data]


def main(plan: dict[str, Any]) -> dict[str, Any]:
    vectors = embed(plan, plan["key"], plan["model"], plan["texts"])
    try:
        embed(plan, plan["key"], "none", ["text"])
        fault = ""
    except litellm.NotFoundError:
        fault = "model_not_found"
    began = time.monotonic()
    answers = [embed(plan, plan["slow_key"], plan["model"], [f"text {i}"]) for i in range(3)]
    return {
        "vectors": [hexed(vector) for vector in vectors],
        "fault": fault,
        "answered": len(answers),
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps({"litellm": main(json.load(sys.stdin))}))
