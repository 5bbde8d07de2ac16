"""What a folder says of itself, and folders that are refused with the reason."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

import encoder
from encoder.configuration import read_architecture
from encoder.errors import (
    DamagedFileError,
    DeviceError,
    MissingFileError,
    RemoteCodeError,
    SchemeError,
    UnsupportedError,
)
from encoder.families import FIELDS, architecture
from encoder.folder import describe

Edit = Callable[[Path], Any]


@pytest.fixture
def folder(small_bert: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(small_bert, copy)
    return copy


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value), "utf-8")


def changed(name: str, **changes: Any) -> Edit:
    """An edit that changes fields of a JSON file; None takes a field away."""

    def edit(folder: Path) -> None:
        file = folder / name
        merged = (json.loads(file.read_text("utf-8")) if file.is_file() else {}) | changes
        write(file, {key: value for key, value in merged.items() if value is not None})

    return edit


def modules(*kinds: str) -> list[dict[str, str]]:
    return [{"type": kind, "path": "1_Pooling" if kind.endswith("Pooling") else ""} for kind in kinds]


ST = "sentence_transformers.models."


def test_a_folder_describes_itself(minilm: Path) -> None:
    found = describe(minilm)
    assert found.name == "all-MiniLM-L6-v2"
    assert (found.pooling, found.normalize, found.max_seq_length) == ("mean", True, 256)
    assert (found.query_prefix, found.passage_prefix, found.default_prompt) == ("", "", "")
    assert found.licence == "Apache-2.0"
    assert found.config["hidden_size"] == 384


def test_prefixes_are_sentence_transformers_prompts(e5_small: Path) -> None:
    found = describe(e5_small)
    assert (found.query_prefix, found.passage_prefix) == ("query: ", "passage: ")


def test_describing_needs_no_torch() -> None:
    code = "import sys, encoder.folder, encoder.errors, encoder.threads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean", "include_prompt": True}, "mean"),
    ],
)
def test_pooling_is_read_in_both_of_its_forms(folder: Path, pooling: dict[str, Any], expected: str) -> None:
    write(folder / "modules.json", modules(f"{ST}Transformer", f"{ST}Pooling"))
    write(folder / "1_Pooling" / "config.json", pooling)
    assert describe(folder).pooling == expected
    assert not describe(folder).normalize


def test_a_default_prompt_is_found(folder: Path) -> None:
    prompts = {"prompts": {"query": "q: ", "document": "d: "}, "default_prompt_name": "query"}
    write(folder / "config_sentence_transformers.json", prompts)
    found = describe(folder)
    assert (found.query_prefix, found.passage_prefix, found.default_prompt) == ("q: ", "d: ", "q: ")


def test_the_licence_of_a_model_card_is_found(folder: Path) -> None:
    assert describe(folder).licence == ""
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Model\n", "utf-8")
    assert describe(folder).licence == "MIT"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_the_digest_covers_weights_configuration_and_tokenizer(folder: Path, name: str) -> None:
    write(folder / "tokenizer.json", {})
    write(folder / "1_Pooling" / "config.json", {})
    before = describe(folder).digest
    (folder / "README.md").write_text("prose", "utf-8")
    assert describe(folder).digest == before
    file = folder / name
    file.write_bytes(file.read_bytes() + b" ")
    assert describe(folder).digest != before


def empty(folder: Path) -> None:
    shutil.rmtree(folder)


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def reaching_outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write(folder / "model.safetensors.index.json", {"weight_map": {"a": "../other.safetensors"}})


BAD: list[tuple[Edit, type[Exception], str]] = [
    (empty, MissingFileError, "does not exist"),
    (lambda folder: (folder / "config.json").unlink(), MissingFileError, "no config.json"),
    (lambda folder: (folder / "model.safetensors").unlink(), MissingFileError, "no model.safetensors"),
    (pickled, MissingFileError, "not supported"),
    (reaching_outside, DamagedFileError, "no valid list of shards"),
    (lambda folder: (folder / "config.json").write_text("{", "utf-8"), DamagedFileError, "not JSON"),
    (changed("config.json", auto_map={"AutoModel": "code.Model"}), RemoteCodeError, "auto_map"),
]


@pytest.mark.parametrize(("edit", "error", "says"), BAD)
def test_a_bad_folder_is_refused_before_and_while_loading(
    folder: Path, edit: Edit, error: type[Exception], says: str
) -> None:
    edit(folder)
    with pytest.raises(error, match=says):
        describe(folder)
    with pytest.raises(error, match=says):
        encoder.load(folder, scheme="fp32", device="cpu")


@pytest.mark.parametrize(
    "edit",
    [
        changed("config_sentence_transformers.json", prompts=["query: "]),
        changed("config.json", architectures="BertForTokenClassification"),
        changed("config.json", architectures=["BertForTokenClassification"], id2label=["O", "B"]),
    ],
)
def test_what_is_not_of_its_type_is_told(folder: Path, edit: Edit) -> None:
    edit(folder)
    with pytest.raises(DamagedFileError, match="is not a"):
        describe(folder)


@pytest.mark.parametrize(
    ("listed", "error"),
    [
        (["custom_st.Transformer"], RemoteCodeError),
        ([f"{ST}Transformer", f"{ST}Pooling", f"{ST}Dense"], UnsupportedError),
    ],
)
def test_modules_that_we_do_not_compute_are_refused(folder: Path, listed: list[str], error: type[Exception]) -> None:
    write(folder / "modules.json", modules(*listed))
    with pytest.raises(error, match="modules"):
        describe(folder)


def test_poolings_that_we_do_not_compute_are_refused(folder: Path) -> None:
    write(folder / "modules.json", modules(f"{ST}Transformer", f"{ST}Pooling"))
    for pooling in ({"pooling_mode": "max"}, {"pooling_mode": ["cls", "mean"]}, {"include_prompt": False}):
        write(folder / "1_Pooling" / "config.json", pooling)
        with pytest.raises(UnsupportedError):
            describe(folder)


@pytest.mark.parametrize(
    ("edit", "error", "says"),
    [
        (truncated, DamagedFileError, "truncated"),
        (changed("config.json", model_type="gpt2"), UnsupportedError, "gpt2"),
        (changed("config.json", model_type="no-such-family"), UnsupportedError, "no-such-family"),
        (changed("config.json", model_type=None), DamagedFileError, "model_type"),
        (changed("config.json", hidden_act="mish"), UnsupportedError, "hidden_act"),
        (changed("config.json", position_embedding_type="relative_key"), UnsupportedError, "position"),
        (changed("config.json", is_decoder=True), UnsupportedError, "decoder"),
        (changed("config.json", num_attention_heads=5), DamagedFileError, "num_attention_heads"),
        (changed("config.json", hidden_size="wide"), DamagedFileError, "config.json"),
        (changed("config.json", vocab_size=299), DamagedFileError, "word_embeddings"),
        (changed("config.json", num_hidden_layers=4), DamagedFileError, r"layer\.3"),
    ],
)
def test_a_model_that_cannot_be_computed_is_refused(
    folder: Path, edit: Edit, error: type[Exception], says: str
) -> None:
    edit(folder)
    with pytest.raises(error, match=says):
        encoder.load(folder, scheme="fp32", device="cpu")


def test_unknown_schemes_isas_and_devices_are_refused(folder: Path) -> None:
    with pytest.raises(SchemeError, match="int4"):
        encoder.load(folder, scheme="int4")
    with pytest.raises(SchemeError, match="magic"):
        encoder.load(folder, isa="magic")
    for device in ("tpu", "mps", "cuda:99"):
        with pytest.raises(DeviceError, match=device):
            encoder.load(folder, device=device)


def test_a_model_is_loaded_without_transformers_unless_its_configuration_is_incomplete(
    splade_tiny: Path, tmp_path: Path
) -> None:
    """It takes as long to import as all else that a start needs but torch."""
    folder = shutil.copytree(splade_tiny, tmp_path / "complete")
    code = """
import sys
from pathlib import Path
import encoder
loaded = encoder.load(Path(sys.argv[1]), scheme="fp32", device="cpu")
print("transformers" in sys.modules, loaded.layers)
"""

    def said() -> str:
        return subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, text=True).stdout

    whole = said()
    assert whole.startswith("False ")
    changed("config.json", layer_norm_eps=None)(folder)
    assert said() == whole.replace("False", "True")


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_a_complete_configuration_reads_as_transformers_reads_it(splade_tiny: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(splade_tiny, tmp_path / "complete")
    changed("config.json", model_type=kind, pad_token_id=1)(folder)
    assert json.loads((folder / "config.json").read_text("utf-8")).keys() >= FIELDS
    complete = read_architecture(folder)
    assert complete == architecture(AutoConfig.from_pretrained(folder).to_dict())
