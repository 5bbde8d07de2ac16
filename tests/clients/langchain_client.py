"""What a user of `langchain-openai` does. Nothing here knows Octavo."""

import json
import struct
import sys
import time
from typing import Any

import openai
from langchain_openai import OpenAIEmbeddings


def hexed(vector: list[float]) -> str:
    return struct.pack(f"<{len(vector)}f", *vector).hex()


def embeddings(plan: dict[str, Any], key: str, model: str) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(base_url=plan["url"] + "/v1", api_key=key, model=model, max_retries=5)


def main(plan: dict[str, Any]) -> dict[str, Any]:
    vectors = embeddings(plan, plan["key"], plan["model"]).embed_documents(plan["texts"])
    try:
        embeddings(plan, plan["key"], "none").embed_query("text")
        fault = ""
    except openai.NotFoundError as error:
        fault = str(error.code)
    limited = embeddings(plan, plan["slow_key"], plan["model"])
    began = time.monotonic()
    answers = [limited.embed_query(f"text {i}") for i in range(3)]
    return {
        "vectors": [hexed(vector) for vector in vectors],
        "fault": fault,
        "answered": len(answers),
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps({"langchain": main(json.load(sys.stdin))}))
