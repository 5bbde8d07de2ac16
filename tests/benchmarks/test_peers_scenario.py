"""The `peers` scenario: who read how much is found out, only that counts, and servers are asked by their protocols."""

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import registry
from benchmarks.figures import Bars, Figure, Missing
from benchmarks.peers import environment, scenario, servers
from benchmarks.peers.environment import PeerError
from benchmarks.peers.protocol import Ids, Vectors
from benchmarks.peers.reading import ByFixedCuts
from benchmarks.peers.scenario import figures_of, reach
from benchmarks.peers.servers import KINDS, PeerServer

WORDS = [f"w{number}" for number in range(1_000)]


def reader(limit: int) -> scenario.Read:
    """Make a reader whose vector of a text is the count of each of its first words."""

    def read(texts: Sequence[str], at_once: int) -> tuple[Vectors, float]:
        rows = np.zeros((len(texts), len(WORDS)), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split()[:limit]:
                row[int(word[1:])] += 1
        return rows, 1.0

    return read


@pytest.mark.parametrize("limit", [1, 2, 254, 510, 750])
def test_where_a_reader_stops_is_found_to_the_token(limit: int) -> None:
    assert reach(reader(limit), WORDS) == limit


def test_a_reader_that_reads_all_is_known_by_two_questions() -> None:
    asked: list[str] = []

    def read(texts: Sequence[str], at_once: int) -> tuple[Vectors, float]:
        asked.extend(texts)
        return reader(10_000)(texts, at_once)

    assert reach(read, WORDS) == len(WORDS)
    assert len(asked) == 2


def test_only_what_was_read_counts() -> None:
    vectors = {name: np.eye(2, dtype=np.float32) for name in ("octavo", "transformers", "infinity")}
    figures = figures_of(
        ["octavo", "transformers", "infinity", "mlserver"],
        {"mlserver": Missing("it did not start")},
        seconds={"octavo": [1.0, 2.0], "transformers": [4.0, 8.0], "infinity": [0.5, 1.0]},
        waits={name: [0.1, 0.2] for name in ("octavo", "transformers", "infinity")},
        read={"octavo": [1_000, 3_000], "transformers": [1_000, 3_000], "infinity": [254, 254]},
        tokens=[1_000, 3_000],
        vectors=vectors,
    )
    found = {name: figure.value for name, figure in figures.items() if isinstance(figure, Figure)}
    assert found["unread.octavo"] == 0
    assert found["unread.infinity"] == pytest.approx(100 * (1 - 508 / 4_000))
    assert found["speed.infinity"] == pytest.approx(508 * 1.5)  # median of a tie: 1016 and 508 tokens/s
    assert found["x_speed.transformers"] == pytest.approx(4)
    assert found["x_speed.infinity"] == pytest.approx(0.5 / 508 * 4_000)
    assert figures["speed.mlserver"] == Missing("it did not start")
    bars = figures["peers_speed.tokens read"]
    assert isinstance(bars, Bars)
    assert bars.names == ("octavo", "transformers", "infinity")


class Sums:
    """An engine whose vector of a piece is its mean id, and one."""

    def __init__(self) -> None:
        self.pieces: list[Ids] = []

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        self.pieces += segments
        return np.array([[ids[1:-1].mean(), 1.0] for ids in segments], np.float32)

    def describe(self) -> dict[str, Any]:
        return {}


def test_fixed_cuts_leave_nothing_out_whatever_the_tokenizer_file_says(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2} | {word: 3 + number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    engine = Sums()
    vectors = ByFixedCuts(engine, str(tmp_path)).read([" ".join(WORDS), "w7"], 1, 1)
    assert [len(ids) for ids in engine.pieces] == [512, 492, 3]
    assert all(ids[0] == 0 and ids[-1] == 1 for ids in engine.pieces)
    assert np.concatenate([ids[1:-1] for ids in engine.pieces[:2]]).tolist() == list(range(3, 1_003))
    expected = np.array([np.arange(3, 1_003).mean(), 1.0])
    np.testing.assert_allclose(vectors[0], expected / np.linalg.norm(expected), rtol=1e-6)


class Double(BaseHTTPRequestHandler):
    """Answers both protocols: a text's vector is its length and two; a long text is refused."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/embeddings":
            length = len(asked["input"][0])
            reply: Any = {"data": [{"embedding": [length, 2.0]}]}
        else:
            length = len(asked["inputs"][0]["data"][0])
            assert asked["inputs"][1]["name"] == "truncation"
            reply = {"outputs": [{"data": [json.dumps([[[length - 1, 1.0], [length + 1, 3.0]]])]}]}
        said = json.dumps(reply).encode()
        self.send_response(200 if length < 1_000 else 422)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Double) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("peer", sorted(KINDS))
@pytest.mark.parametrize("callers", [1, 3, 8])
def test_servers_are_asked_by_their_protocols_and_answers_keep_their_order(peer: str, callers: int, port: int) -> None:
    server = PeerServer(KINDS[peer], port)
    vectors = server.read(["x" * length for length in (5, 3, 9, 1, 7)], callers)
    assert vectors.tolist() == [[5, 2], [3, 2], [9, 2], [1, 2], [7, 2]]
    with pytest.raises(PeerError, match="it answered 422 to a text of 1,000 characters"):
        server.read(["secret words "[:13] * 76 + "x" * 12], 1)


def test_a_server_that_ends_is_told_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "interpreter", lambda *_, install: Path("/bin/sh"))
    kind = KINDS["infinity"]
    broken = servers.Kind(
        lambda *_: ["/bin/sh", "-c", "echo no such model; exit 3"], "/", "/", kind.request, kind.vector
    )
    monkeypatch.setitem(KINDS, "infinity", broken)
    with (
        pytest.raises(PeerError, match="infinity: ended with status 3; its last line was: no such model"),
        servers.started("infinity", tmp_path, tmp_path, install=False),
    ):
        pass


def test_a_peer_that_cannot_be_had_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import ExitStack

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ExitStack() as stack:
        peers, missing = scenario._start(["openvino", "infinity"], tmp_path, tmp_path, stack, "text", install=False)
    assert peers == {}
    assert "openvino is not installed" in missing["openvino"].reason
    assert "infinity is not installed" in missing["infinity"].reason


def test_the_package_is_a_scenario_and_its_peers_are_pinned() -> None:
    assert registry.scenarios()["peers"].load()[0] is scenario.run
    folder = Path(environment.__file__).parent
    for peer in ("sentence_transformers", *KINDS):
        lines = (folder / f"{peer}.txt").read_text().split()
        assert lines
        assert all("==" in line for line in lines), peer
