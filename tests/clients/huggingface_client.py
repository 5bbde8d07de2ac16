"""What a user of `huggingface_hub`'s InferenceClient does; it leaves waiting to its user. Nothing here knows Octavo."""

import json
import sys
import time
from typing import Any

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError


def patiently(client: InferenceClient, text: str) -> Any:
    while True:
        try:
            return client.feature_extraction(text)
        except HfHubHTTPError as error:
            if error.response.status_code != 429:
                raise
            time.sleep(float(error.response.headers["retry-after"]))


def main(plan: dict[str, Any]) -> dict[str, Any]:
    client = InferenceClient(plan["url"], token=plan["key"])
    vectors = [client.feature_extraction(text, normalize=True)[0] for text in plan["texts"]]
    try:
        client.feature_extraction("")
        fault = ""
    except HfHubHTTPError as error:
        fault = str(error.response.json()["error_type"])
    limited = InferenceClient(plan["url"], token=plan["slow_key"])
    began = time.monotonic()
    answers = [patiently(limited, f"text {i}") for i in range(3)]
    return {
        "vectors": [vector.astype("<f4").tobytes().hex() for vector in vectors],
        "fault": fault,
        "answered": len(answers),
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps({"huggingface": main(json.load(sys.stdin))}))
