"""tritonclient[grpc] as it is on the index: it embeds, is refused in words, waits as it is told, and ends well.

It has an environment of its own, which `make test-clients` makes: two packages `inference` clash in one process.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from octavo.v1 import inference_pb2 as pb
from server.auth.keys import Key
from server.config.folders import cache_home
from server.config.schema import ClientSettings, PlanSettings
from tests.server.helpers import MINILM, Server, array, embed, model, prose, serving, settings

PYTHON = Path(__file__).parents[2] / ".venv-clients" / "triton" / "bin" / "python"
TEXTS = ["The light house at the north sea.", prose(1_500)]

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="tritonclient is not installed: `make test-clients` does")


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not (cache_home() / "models" / MINILM).is_dir():
        pytest.skip(f"{MINILM} is not installed; `make setup` fetches it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def say(server: Server, **plan: Any) -> dict[str, Any]:
    """Run the client to its end."""
    script = Path(__file__).with_name("triton_client.py")
    done = subprocess.run(
        [str(PYTHON), str(script)],
        input=json.dumps({"address": server.address, "model": MINILM, "texts": TEXTS, **plan}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": ""},  # and so without this environment's packages
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def vectors_of(answer: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(bytes.fromhex(answer["vectors"]), "<f4").reshape(answer["shape"])


@pytest.fixture(scope="module")
def said() -> Iterator[dict[str, Any]]:
    """What a client got that tries everything, and what octavo.v1 answers for its texts."""
    with serving(settings(model(MINILM))) as server:
        results = embed(server, *TEXTS, options=pb.CallOptions(input_type=pb.INPUT_TYPE_PASSAGE)).results
        yield say(server) | {
            "vectors": np.stack([array(result.embedding.document_vector) for result in results]),
            "tokens": [result.usage.tokens for result in results],
        }
        for code in ("INTERNAL", "UNKNOWN"):
            assert server.sample("requests_total", code=code) == 0


@pytest.mark.parametrize("how", ["infer", "compressed", "asyncio"])
def test_it_gets_the_vectors_of_octavo_v1(said: dict[str, Any], how: str) -> None:
    assert np.array_equal(vectors_of(said[how]), said["vectors"])
    assert said[how]["tokens"] == said["tokens"]
    assert said["tokens"][1] > 512


def test_it_gets_them_in_callbacks_too(said: dict[str, Any]) -> None:
    assert len(said["callbacks"]) == 4
    for answer in said["callbacks"]:
        assert np.array_equal(vectors_of(answer), said["vectors"])


def test_it_gets_them_in_a_stream_which_an_error_does_not_end(said: dict[str, Any]) -> None:
    short, empty, long = said["stream"]
    assert np.array_equal(vectors_of(short)[0], said["vectors"][0])
    assert empty["message"].startswith("EMPTY_DOCUMENT: text[0]: ")
    assert np.array_equal(vectors_of(long)[0], said["vectors"][1])


def test_it_finds_out_what_is_served(said: dict[str, Any]) -> None:
    described = said["described"]
    assert all(described[name] for name in ("live", "ready", "model_ready"))
    assert not described["none_ready"]
    assert described["server"] == "octavo"
    assert described["config"] == described["statistics"] == MINILM
    assert described["index"] == [MINILM]
    assert {"embeddings", "token_count"} <= set(described["outputs"])


def test_it_shows_errors_in_words(said: dict[str, Any]) -> None:
    assert said["unknown"]["status"] == "StatusCode.NOT_FOUND"
    assert said["late"]["status"] in {"StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE"}
    assert said["bad"]["status"] == "StatusCode.INVALID_ARGUMENT"
    assert said["bad"]["message"] == f"parameters.dimensions: {MINILM} has 1 to 384 dimensions"
    assert said["load"]["status"] == "StatusCode.UNIMPLEMENTED"


def test_it_waits_as_it_is_told_when_it_has_spent_its_limit() -> None:
    record, key = Key.make()
    clients = {
        "acme": ClientSettings(plan="slow", keys=(str(record),)),
        "anonymous": ClientSettings(disabled=True),
    }
    limited = {"plans": {"slow": PlanSettings(requests_per_second=2)}, "clients": clients}
    with serving(settings(model(MINILM)).model_copy(update=limited)) as server:
        patient = say(server, key=key, patient_calls=6)
        assert len(patient["patient"]) == 6
        assert server.sample("requests_total", code="RESOURCE_EXHAUSTED"), "the client never met its limit"
        impatient = say(server, key=key, impatient_calls=8)
    faults = [fault for fault in impatient["impatient"] if fault]
    assert faults
    assert {fault["status"] for fault in faults} == {"StatusCode.RESOURCE_EXHAUSTED"}
    assert impatient["stranger"]["status"] == "StatusCode.UNAUTHENTICATED"
