"""What a user of `cohere` does: embeds and reranks. Nothing here knows Octavo."""

import json
import struct
import sys
import time
from typing import Any

import cohere
from cohere.errors import NotFoundError


def hexed(vector: list[float]) -> str:
    return struct.pack(f"<{len(vector)}f", *vector).hex()


def main(plan: dict[str, Any]) -> dict[str, Any]:
    client = cohere.ClientV2(api_key=plan["key"], base_url=plan["url"])
    embedded = client.embed(
        model=plan["model"], texts=plan["texts"], input_type="classification", embedding_types=["float"]
    )
    try:
        client.embed(model="none", texts=["text"], input_type="classification", embedding_types=["float"])
        fault = ""
    except NotFoundError:
        fault = "model_not_found"
    limited = cohere.ClientV2(api_key=plan["slow_key"], base_url=plan["url"])
    began = time.monotonic()
    answers = [
        limited.rerank(
            model=plan["model"],
            query=f"query {i}",
            documents=plan["texts"],
            top_n=1,
            request_options={"max_retries": 5},
        )
        for i in range(3)
    ]
    return {
        "vectors": [hexed(vector) for vector in embedded.embeddings.float_ or []],
        "fault": fault,
        "answered": sum(len(each.results) for each in answers),
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps({"cohere": main(json.load(sys.stdin))}))
