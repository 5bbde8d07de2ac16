"""Reads a model folder's description without torch: pooling, prefixes, limits, head, licence, digest.

The layout is Hugging Face's (`config.json`, safetensors, tokenizer files) with sentence-transformers' additions
(`modules.json`, `1_Pooling/config.json`, `config_sentence_transformers.json`, `sentence_bert_config.json`), and ours:
`octavo.json` has what the others have no place for. A folder of `octavo.json` and `head.safetensors` alone is a head on
another model's layers, its trunk.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encoder.errors import DamagedFileError, MissingFileError, RemoteCodeError, UnsupportedError

Pooling = Literal["mean", "cls"]
HeadKind = Literal["tokens", "sequence", "vocabulary"]
"""What a trained head scores: labels of each token, labels of a segment, or the words of the vocabulary."""

QUANTISED = "model.int8.safetensors"
"""The weights file in a folder written by `encoder.quantised`."""

MANIFEST = "octavo.json"
HEAD_WEIGHTS = "head.safetensors"

_ARCHITECTURES: tuple[tuple[str, HeadKind], ...] = (
    ("ForTokenClassification", "tokens"),
    ("ForSequenceClassification", "sequence"),
    ("ForMaskedLM", "vocabulary"),
)
_TASKS: dict[str, HeadKind] = {"tokens": "tokens", "classify": "sequence"}
_MODULES = {"Transformer", "Pooling", "Normalize"}
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls"}
_LICENCES = (
    ("Apache-2.0", re.compile(r"Apache License\s+Version 2\.0")),
    ("MIT", re.compile(r"MIT License|Permission is hereby granted, free of charge")),
    ("CC-BY-4.0", re.compile(r"Attribution 4\.0 International|CC[- ]BY[- ]4\.0")),
    ("BSD-3-Clause", re.compile(r"Redistribution and use in source and binary forms")),
)


@dataclass(frozen=True, slots=True)
class HeadFacts:
    """What a folder says about its trained head.

    Attributes:
        labels: in the order of the head's outputs; empty for a vocabulary.
        multi_label: a text may have any number of the labels.
        pooling: what a head on a trunk reads of a segment. None: the head pools as its architecture says.
        normalize: such a head reads the vector scaled to length 1.
    """

    kind: HeadKind
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    pooling: Pooling | None = None
    normalize: bool = False


@dataclass(frozen=True, slots=True)
class Trunk:
    """The model that a head was trained on.

    Attributes:
        digest: of its folder.
    """

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder's description; see `describe`.

    Attributes:
        config: the content of `config.json`; empty for a head alone.
        default_prompt: the prefix that sentence-transformers adds by default; usually empty.
        max_seq_length: where sentence-transformers truncates a text, in tokens including special tokens. We do not
            truncate. None: not set.
        licence: an SPDX identifier; empty if the folder declares no known licence.
        digest: hex digest of weights, configuration and tokenizer files.
        head: its trained head, if it has one.
        trunk: the model whose layers run; None: its own.
        version: the version that the folder declares; empty if it declares none.
        trained_on: the data that its head was trained on, if the folder declares it.
        segment_tokens: the most tokens that a segment should own, if the folder declares it: some heads find less in
            long segments. None: as many as fit.
    """

    path: Path
    name: str
    config: dict[str, Any]
    pooling: Pooling
    normalize: bool
    query_prefix: str
    passage_prefix: str
    default_prompt: str
    max_seq_length: int | None
    licence: str
    digest: str
    head: HeadFacts | None = None
    trunk: Trunk | None = None
    version: str = ""
    trained_on: str = ""
    segment_tokens: int | None = None


def describe(folder: Path) -> ModelFolder:
    """Read a folder's description and digest its files (about one second per gigabyte).

    Raises:
        MissingFileError: no folder, no `config.json` or no weights.
        DamagedFileError: invalid JSON.
        RemoteCodeError: the model requires custom code.
        UnsupportedError: an unsupported module or pooling.
    """
    manifest = _json(folder / MANIFEST)
    if is_head(folder):
        return _describe_head(folder, manifest)
    config = read_config(folder)
    modules = _modules(folder)
    file = folder / "config_sentence_transformers.json"
    prompts = _json(file)
    named = {key: str(value) for key, value in _object(file, prompts, "prompts").items()}
    advice = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    return ModelFolder(
        path=folder,
        name=folder.resolve().name,
        config=config,
        pooling=_pooling(folder, modules),
        normalize="Normalize" in modules,
        query_prefix=named.get("query", ""),
        passage_prefix=next((named[key] for key in ("passage", "document") if key in named), ""),
        default_prompt=named.get(str(prompts.get("default_prompt_name")), ""),
        max_seq_length=advice if isinstance(advice, int) else None,
        licence=_text(manifest, "licence") or _licence(folder),
        digest=_digest(folder),
        head=_head_of(folder, config),
        version=_text(manifest, "version"),
        trained_on=_text(manifest, "trained_on"),
        segment_tokens=_count(folder, manifest, "segment_tokens"),
    )


def is_head(folder: Path) -> bool:
    """Whether a folder has a head alone, on another model's layers."""
    return "trunk" in _json(folder / MANIFEST)


def _describe_head(folder: Path, manifest: dict[str, Any]) -> ModelFolder:
    """Describe a head on another model's layers."""
    trunk, labels = manifest["trunk"], manifest.get("labels")
    named = isinstance(trunk, dict) and isinstance(trunk.get("name"), str) and isinstance(trunk.get("digest"), str)
    kind = _TASKS.get(_text(manifest, "task"))
    if not named or kind is None or not isinstance(labels, list) or not labels:
        raise DamagedFileError(
            f"{folder.name}: {MANIFEST} needs a task ({', '.join(_TASKS)}), labels, and a trunk with name and digest"
        )
    pooling = _text(manifest, "pooling") or "mean"
    if pooling not in _POOLINGS:
        raise UnsupportedError(f"{folder.name}: pooling {pooling!r} is not supported; supported: mean, cls")
    return ModelFolder(
        path=folder,
        name=folder.resolve().name,
        config={},
        pooling=_POOLINGS[pooling],
        normalize=False,
        query_prefix="",
        passage_prefix="",
        default_prompt="",
        max_seq_length=None,
        licence=_text(manifest, "licence") or _licence(folder),
        digest=_digest(folder),
        head=HeadFacts(
            kind,
            tuple(map(str, labels)),
            multi_label=bool(manifest.get("multi_label")),
            pooling=_POOLINGS[pooling],
            normalize=bool(manifest.get("normalize")),
        ),
        trunk=Trunk(trunk["name"], trunk["digest"]),
        version=_text(manifest, "version"),
        trained_on=_text(manifest, "trained_on"),
    )


def _head_of(folder: Path, config: dict[str, Any]) -> HeadFacts | None:
    """The head that a configuration names. Folders with 8-bit weights alone have none: only layers are quantised."""
    names = config.get("architectures") or [""]
    if not isinstance(names, list):
        raise DamagedFileError(f"{folder.name}: config.json: architectures is not a list")
    kind = next((kind for suffix, kind in _ARCHITECTURES if str(names[0]).endswith(suffix)), None)
    if kind is None or [file.name for file in weight_files(folder)] == [QUANTISED]:
        return None
    if kind == "vocabulary":
        return HeadFacts(kind)
    named = _object(folder / "config.json", config, "id2label")
    try:
        labels = tuple(str(named[str(i)]) for i in range(len(named)))
    except KeyError as error:
        raise DamagedFileError(f"{folder.name}: config.json: id2label has no label {error}") from error
    labels = labels or ("LABEL_0", "LABEL_1")  # transformers' default
    return HeadFacts(kind, labels, multi_label=config.get("problem_type") == "multi_label_classification")


def _count(folder: Path, manifest: dict[str, Any], key: str) -> int | None:
    value = manifest.get(key)
    if value is not None and (not isinstance(value, int) or value < 1):
        raise DamagedFileError(f"{folder.name}: {MANIFEST}: {key} must be a positive integer")
    return value


def _text(manifest: dict[str, Any], key: str) -> str:
    value = manifest.get(key)
    return value if isinstance(value, str) else ""


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json`; refuse models that require custom code. Raises as `describe` does."""
    if not folder.is_dir():
        raise MissingFileError(f"model folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        raise MissingFileError(f"{folder} has no config.json")
    config = _json(folder / "config.json")
    if config.get("auto_map"):
        raise RemoteCodeError(f"{folder.name}: config.json requires custom code (auto_map), which is never run")
    return config


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The folder's safetensors files, in order. Raises MissingFileError if there are none."""
    index = folder / "model.safetensors.index.json"
    if (folder / HEAD_WEIGHTS).is_file() and not (folder / "config.json").is_file():
        return (folder / HEAD_WEIGHTS,)
    if (folder / QUANTISED).is_file() and not index.is_file() and not (folder / "model.safetensors").is_file():
        return (folder / QUANTISED,)
    if index.is_file():
        shards = sorted(set(map(str, _object(index, _json(index), "weight_map").values())))
        # A shard must lie in the folder: an index must not reference files outside it.
        if not shards or any(Path(shard).name != shard for shard in shards):
            raise DamagedFileError(f"{folder.name}: {index.name} has no valid list of shards")
        files = tuple(folder / shard for shard in shards)
    else:
        files = (folder / "model.safetensors",)
    for file in files:
        if not file.is_file():
            pickled = " (pickled weights are not supported: convert them)" if any(folder.glob("*.bin")) else ""
            raise MissingFileError(f"{folder} has no {file.name}{pickled}")
    return files


def _modules(folder: Path) -> dict[str, str]:
    """Paths of the sentence-transformers modules by kind; empty without `modules.json`."""
    file = folder / "modules.json"
    if not file.is_file():
        return {}
    entries = _json_value(file)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DamagedFileError(f"{folder.name}: modules.json is not a list of modules")
    modules = {}
    for entry in entries:
        package, _, kind = str(entry.get("type", "")).rpartition(".")
        if not package.startswith("sentence_transformers"):
            raise RemoteCodeError(f"{folder.name}: modules.json requires {package}.{kind}, which is never run")
        if kind not in _MODULES:
            raise UnsupportedError(f"{folder.name}: modules.json requires a {kind} module, which is not supported")
        modules[kind] = str(entry.get("path", ""))
    return modules


def _pooling(folder: Path, modules: dict[str, str]) -> Pooling:
    """The folder's pooling; by default mean, as in sentence-transformers."""
    if "Pooling" not in modules:
        return "mean"
    config = _json(folder / modules["Pooling"] / "config.json")
    if config.get("include_prompt") is False:
        raise UnsupportedError(f"{folder.name}: pooling without the prompt's tokens is not supported")
    asked = config.get("pooling_mode")
    if asked is None:
        # Older format: one boolean per mode.
        active = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        names = [key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for key in active]
        asked = names[0] if len(names) == 1 else names or "mean"
    if not isinstance(asked, str) or asked not in _POOLINGS:
        raise UnsupportedError(f"{folder.name}: pooling {asked!r} is not supported; supported: mean, cls")
    return _POOLINGS[asked]


def _licence(folder: Path) -> str:
    readme = folder / "README.md"
    if readme.is_file():
        head = readme.read_text("utf-8", errors="replace")[:4096]
        front = re.match(r"---\n(.*?)\n---", head, re.DOTALL)
        named = re.search(r"^license:\s*[\"']?([\w.-]+)", front.group(1), re.MULTILINE) if front else None
        if named:
            known = {spdx.lower(): spdx for spdx, _ in _LICENCES}
            return known.get(named.group(1).lower(), named.group(1))
    for file in sorted(folder.glob("LICEN[CS]E*")):
        text = file.read_text("utf-8", errors="replace")[:4096]
        for spdx, pattern in _LICENCES:
            if pattern.search(text):
                return spdx
    return ""


def _digest(folder: Path) -> str:
    """Digest names and bytes of weights, configuration and tokenizer files, but not READMEs or licences."""
    total = hashlib.blake2b(digest_size=32)
    described = {
        *(file for file in folder.glob("*.json") if file.name != "fetched.json"),  # where it came from
        *folder.glob("*/config.json"),
        *folder.glob("*.model"),
        *folder.glob("vocab.txt"),
    }
    for file in sorted({*described, *folder.glob("merges.txt"), *weight_files(folder)}):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def _json(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file does not exist."""
    if not file.is_file():
        return {}
    value = _json_value(file)
    if not isinstance(value, dict):
        raise DamagedFileError(f"{file.parent.name}: {file.name} is not a JSON object")
    return value


def _object(file: Path, parent: dict[str, Any], key: str) -> dict[str, Any]:
    """A member of a file's object that is an object itself; empty if it is not set."""
    value = parent.get(key) or {}
    if not isinstance(value, dict):
        raise DamagedFileError(f"{file.parent.name}: {file.name}: {key} is not an object")
    return value


def _json_value(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise DamagedFileError(f"{file.parent.name}: {file.name} is not JSON") from error
