"""The same as `client.py` with Octavo's own client, also in a process of its own."""

import json
import sys
import time

from octavo.client import Client


def main() -> None:
    """Answer until the input ends."""
    address, model = sys.argv[1:]
    number = 2_000_000  # apart from the other client's, whose texts the cache knows
    with Client(address) as client:
        for line in sys.stdin:
            asked = json.loads(line)
            seconds = []
            for _ in range(asked["calls"]):
                number += 1
                texts = [text.replace("{}", str(number)) for text in asked["texts"]]
                began = time.perf_counter()
                results = [client.embed(text, model=model, input_type="passage") for text in texts]
                vectors = [result.vector for result in results]
                seconds.append(time.perf_counter() - began)
            data = b"".join(vector.astype("<f4").tobytes() for vector in vectors if vector is not None)
            said = {"seconds": seconds, "vectors": data.hex(), "tokens": [result.usage.tokens for result in results]}
            print(json.dumps(said), flush=True)


main()
