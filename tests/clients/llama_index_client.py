"""What a user of `llama-index-embeddings-openai` does. Nothing here knows Octavo."""

import json
import struct
import sys
import time
from typing import Any

import openai
from llama_index.embeddings.openai import OpenAIEmbedding


def hexed(vector: list[float]) -> str:
    return struct.pack(f"<{len(vector)}f", *vector).hex()


def embeddings(plan: dict[str, Any], key: str, model: str) -> OpenAIEmbedding:
    return OpenAIEmbedding(model_name=model, api_base=plan["url"] + "/v1", api_key=key, max_retries=5)


def main(plan: dict[str, Any]) -> dict[str, Any]:
    vectors = embeddings(plan, plan["key"], plan["model"]).get_text_embedding_batch(plan["texts"])
    try:
        embeddings(plan, plan["key"], "none").get_text_embedding("text")
        fault = ""
    except openai.NotFoundError as error:
        fault = str(error.code)
    limited = embeddings(plan, plan["slow_key"], plan["model"])
    began = time.monotonic()
    answers = [limited.get_text_embedding(f"text {i}") for i in range(3)]
    return {
        "vectors": [hexed(vector) for vector in vectors],
        "fault": fault,
        "answered": len(answers),
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps({"llama-index": main(json.load(sys.stdin))}))
