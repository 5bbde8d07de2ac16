"""A user of tritonclient in an environment of its own: each line of standard input is some texts, each answer a line.

Asked with `{"texts": […], "calls": n}`, it calls n times and says `{"seconds": […], "vectors": hex, "tokens": […]}` of
the last call. A text's `{}` becomes a number that no call had before.
"""

import json
import sys
import time

import numpy as np
import tritonclient.grpc as triton


def main() -> None:
    """Answer until the input ends."""
    address, model = sys.argv[1:]
    number = 1_000_000  # apart from the other client's, whose texts the cache knows
    with triton.InferenceServerClient(address) as client:
        for line in sys.stdin:
            asked = json.loads(line)
            seconds = []
            for _ in range(asked["calls"]):
                number += 1
                texts = [text.replace("{}", str(number)).encode() for text in asked["texts"]]
                began = time.perf_counter()
                tensor = triton.InferInput("text", [len(texts), 1], "BYTES")
                tensor.set_data_from_numpy(np.array([[text] for text in texts], dtype=np.object_))
                result = client.infer(model, [tensor], parameters={"input_type": "passage"})
                vectors, tokens = result.as_numpy("embeddings"), result.as_numpy("token_count")
                seconds.append(time.perf_counter() - began)
            said = {"seconds": seconds, "vectors": vectors.astype("<f4").tobytes().hex(), "tokens": tokens.tolist()}
            print(json.dumps(said), flush=True)


main()
