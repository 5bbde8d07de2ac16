"""What a user of `openai` does, synchronously and asynchronously. Nothing here knows Octavo."""

import asyncio
import json
import struct
import sys
import time
from typing import Any

import openai


def hexed(vector: list[float]) -> str:
    return struct.pack(f"<{len(vector)}f", *vector).hex()


def synchronous(plan: dict[str, Any]) -> dict[str, Any]:
    client = openai.OpenAI(base_url=plan["url"] + "/v1", api_key=plan["key"])
    embedded = client.embeddings.create(model=plan["model"], input=plan["texts"])
    try:
        client.embeddings.create(model="none", input="text")
        fault = ""
    except openai.NotFoundError as error:
        fault = str(error.code)
    limited = openai.OpenAI(base_url=plan["url"] + "/v1", api_key=plan["slow_key"], max_retries=5)
    began = time.monotonic()
    answers = [limited.embeddings.create(model=plan["model"], input=f"text {i}") for i in range(3)]
    return {
        "vectors": [hexed(each.embedding) for each in embedded.data],
        "fault": fault,
        "models": [model.id for model in client.models.list()],
        "answered": len(answers),
        "seconds": time.monotonic() - began,
    }


async def asynchronous(plan: dict[str, Any]) -> dict[str, Any]:
    client = openai.AsyncOpenAI(base_url=plan["url"] + "/v1", api_key=plan["key"])
    embedded = await client.embeddings.create(model=plan["model"], input=plan["texts"], encoding_format="float")
    try:
        await client.embeddings.create(model=plan["model"], input="")
        fault = ""
    except openai.BadRequestError as error:
        fault = str(error.code)
    limited = openai.AsyncOpenAI(base_url=plan["url"] + "/v1", api_key=plan["slow_key"], max_retries=9)
    began = time.monotonic()
    calls = [limited.embeddings.create(model=plan["model"], input=f"text {i}") for i in range(3)]
    answers = await asyncio.gather(*calls)
    return {
        "vectors": [hexed(each.embedding) for each in embedded.data],
        "fault": fault,
        "models": [model.id async for model in client.models.list()],
        "answered": len(answers),
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps({"openai": synchronous(given), "openai-async": asyncio.run(asynchronous(given))}))
