"""tritonclient[grpc] as it is on the index: it embeds, is refused in words, waits as it is told, and ends well.

It has an environment of its own, which `make test-clients` makes: two packages `inference` clash in one process.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.auth.keys import Key
from server.config.folders import cache_home
from server.config.schema import ClientSettings, PlanSettings
from tests.server.helpers import MINILM, array, embed, model, prose, serving, settings

PYTHON = Path(__file__).parents[2] / ".venv-clients" / "triton" / "bin" / "python"
TEXTS = ["The light house at the north sea.", prose(1_500)]
CLIENTS = ("triton", "triton-async", "triton-stream")

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="tritonclient is not installed: `make test-clients` does")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What a client said that tries everything, and what octavo.v1 answers for its texts."""
    if not (cache_home() / "models" / MINILM).is_dir():
        pytest.skip(f"{MINILM} is not installed; `make setup` fetches it")
    keys = {name: Key.make() for name in ("fast", "slow")}
    configured = settings(model(MINILM)).model_copy(
        update={
            "plans": {"slow": PlanSettings(requests_per_second=1)},
            "clients": {
                name: ClientSettings(plan="slow" if name == "slow" else None, keys=(str(record),))
                for name, (record, _) in keys.items()
            },
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        with serving(configured) as server:
            results = embed(server, *TEXTS).results
            plan = {
                "address": server.address,
                "key": keys["fast"][1],
                "slow_key": keys["slow"][1],
                "model": MINILM,
                "texts": TEXTS,
            }
            yield run(plan) | {
                "vectors": [array(result.embedding.document_vector).tobytes().hex() for result in results],
                "tokens": [result.usage.tokens for result in results],
            }
            for code in ("INTERNAL", "UNKNOWN"):
                assert server.sample("requests_total", code=code) == 0


def run(plan: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [str(PYTHON), str(Path(__file__).with_name("triton_client.py"))],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={"PATH": ""},  # and so without this environment's packages
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("client", CLIENTS)
def test_it_gets_the_vectors_of_octavo_v1(said: dict[str, Any], client: str) -> None:
    assert said[client]["vectors"] == said["vectors"]


def test_it_gets_them_compressed_and_in_callbacks_too(said: dict[str, Any]) -> None:
    assert said["triton"]["same_compressed"]
    assert said["callbacks"] == 4 * [said["vectors"]]


def test_it_is_told_that_all_was_read(said: dict[str, Any]) -> None:
    assert said["triton"]["tokens"] == said["tokens"]
    assert said["tokens"][1] > 512


def test_it_finds_out_what_is_served(said: dict[str, Any]) -> None:
    described = said["described"]
    assert all(described[name] for name in ("live", "ready", "model_ready"))
    assert not described["none_ready"]
    assert described["server"] == "octavo"
    assert described["config"] == described["statistics"] == MINILM
    assert described["index"] == [MINILM]
    assert {"embeddings", "token_count"} <= set(described["outputs"])


@pytest.mark.parametrize("client", CLIENTS)
def test_it_waits_as_it_is_told_when_it_has_spent_its_limit(said: dict[str, Any], client: str) -> None:
    assert said[client]["answered"] == 3
    assert said[client]["seconds"] > 1.5, "three calls at one a second"


def test_it_shows_errors_in_words(said: dict[str, Any]) -> None:
    assert said["triton"]["fault"].startswith("StatusCode.NOT_FOUND: no model of that name is served")
    assert "text[0]: the document has no token" in said["triton-async"]["fault"]
    assert said["triton-stream"]["fault"].startswith("EMPTY_DOCUMENT: text[0]: ")
    faults = said["faults"]
    assert faults["late"].startswith(("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE"))
    assert faults["bad"] == f"StatusCode.INVALID_ARGUMENT: parameters.dimensions: {MINILM} has 1 to 384 dimensions"
    assert faults["stranger"].startswith("StatusCode.UNAUTHENTICATED")
    assert faults["impatient"].startswith("StatusCode.RESOURCE_EXHAUSTED")
    assert faults["load"].startswith("StatusCode.UNIMPLEMENTED")
