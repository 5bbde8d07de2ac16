"""What a user of `curl` does. Nothing here knows Octavo."""

import json
import struct
import subprocess
import sys
import time
from typing import Any


def post(plan: dict[str, Any], key: str, body: dict[str, Any], *flags: str) -> Any:
    command = ["curl", "--silent", "--json", "@-", "--header", f"Authorization: Bearer {key}", *flags]
    command.append(plan["url"] + "/v1/embeddings")
    done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def hexed(vector: list[float]) -> str:
    return struct.pack(f"<{len(vector)}f", *vector).hex()


def main(plan: dict[str, Any]) -> dict[str, Any]:
    embedded = post(plan, plan["key"], {"model": plan["model"], "input": plan["texts"]})
    fault = post(plan, plan["key"], {"model": "none", "input": "text"})["error"]["code"]
    began = time.monotonic()
    patiently = ("--fail", "--retry", "5")
    bodies = [{"model": plan["model"], "input": f"text {i}"} for i in range(3)]
    answers = [post(plan, plan["slow_key"], body, *patiently) for body in bodies]
    return {
        "vectors": [hexed(each["embedding"]) for each in embedded["data"]],
        "fault": fault,
        "answered": sum("data" in answer for answer in answers),
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps({"curl": main(json.load(sys.stdin))}))
