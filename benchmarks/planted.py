"""Personal data planted in texts: which items, in which sentences, where in long documents. All of it is invented."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.texts import book_excerpts, sotu, spam_assassin

_GIVEN = "Maria Aisha Hiroshi Olivia Diego Ingrid Kwame Priya Lukas Fatima Noah Chloé Søren Zoë Ravi Elena Tomás Amélie"
_SURNAMES = "Gonzalez Okafor Tanaka Müller Johansson Petrov O'Neill Nakamura Silva Kowalski Dubois Haddad Berg Novák"
_CITIES = ("Springfield", "Rotterdam", "São Paulo", "Leeds", "Marseille", "Austin", "Gdańsk", "Porto", "Lyon", "Denver")
_STREETS = ("Baker Street", "Elm Avenue", "Hauptstrasse", "Rue de Rivoli", "Maple Drive", "King's Road", "Via Roma")
_STATES = ("Illinois", "Texas", "Ohio", "Oregon", "Nevada", "Georgia")
_SCRIPTS = (
    "北京的天氣很好。",
    "مرحبا بالعالم اليوم.",
    "👩‍👩‍👧‍👦 🏳️‍🌈 fin.",
    "Ελλάδα и Россия.",
    "e\u0301te\u0301 naïve.",
)
_LONG = 8_000  # characters of a document
_TEMPLATES = (
    "My name is {GIVEN_NAME} {SURNAME}, and you can reach me at {PHONE}.",
    "Please send it to {EMAIL} before Friday.",
    "I moved to {BUILDING_NUMBER} {STREET_NAME}, {CITY}, {STATE} {ZIP_CODE} last month.",
    "The account of {GIVEN_NAME} {SURNAME} has the number {BANK_ACCOUNT}.",
    "Call {GIVEN_NAME} on {PHONE} or write to {EMAIL}.",
    "{GIVEN_NAME} {SURNAME} lives in {CITY}.",
    "Her passport number is {PASSPORT}, her name is {GIVEN_NAME} {SURNAME}.",
)


@dataclass(frozen=True, slots=True)
class Item:
    """A planted string with its label, and where it lies in its text, in code points."""

    text: str
    label: str
    start: int

    @property
    def end(self) -> int:
        """Behind its last code point."""
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class Planted:
    """A text with the items in it, in their order."""

    text: str
    items: tuple[Item, ...]


def sentences(seed: int) -> Iterator[Planted]:
    """Sentences with one to five items each, for ever."""
    draw = random.Random(seed)
    while True:
        template = draw.choice(_TEMPLATES)
        text, items = "", []
        for piece in template.replace("}", "{").split("{"):
            if not piece.isupper():
                text += piece
                continue
            value = _value(piece, draw)
            items.append(Item(value, piece, len(text)))
            text += value
        yield Planted(text, tuple(items))


def documents(planted: Sequence[Planted], seed: int, characters: int = 60_000) -> Iterator[Planted]:
    """Long documents with the sentences planted between theirs, about 600 characters apart.

    Before every third one stands another script.
    """
    draw = random.Random(seed)
    hosts = [*sotu(), *(each.text for each in (*book_excerpts(), *spam_assassin()) if len(each.text) > _LONG)]
    left = list(planted)
    while left:
        host = draw.choice(hosts)
        start = draw.randrange(max(1, len(host) - characters))
        text, items, end = "", [], min(len(host), start + characters)
        while left and start < end:
            stop = host.find(". ", start + draw.randint(100, 1100))
            stop = end if stop < 0 else stop + 2
            text += host[start:stop] + (draw.choice(_SCRIPTS) + " " if draw.random() < 1 / 3 else "")
            sentence = left.pop()
            items += [Item(item.text, item.label, item.start + len(text)) for item in sentence.items]
            text += sentence.text + " "
            start = stop
        yield Planted(text, tuple(items))


_CHOICES: dict[str, Sequence[str]] = {
    "GIVEN_NAME": _GIVEN.split(),
    "SURNAME": _SURNAMES.split(),
    "STREET_NAME": _STREETS,
    "CITY": _CITIES,
    "STATE": _STATES,
    "PHONE": ("+1 415 555 ####", "(312) 555-####", "+44 20 7946 0###", "555-01##"),
    "EMAIL": tuple(f"{name.lower()}.##@example.{end}" for name in _GIVEN.split() for end in ("com", "org", "net")),
    "BUILDING_NUMBER": ("#", "##", "###"),
    "ZIP_CODE": ("#####",),
    "BANK_ACCOUNT": ("########",),
    "PASSPORT": ("X########",),
}


def _value(label: str, draw: random.Random) -> str:
    """A value of a label, # standing for a digit."""
    return "".join(str(draw.randrange(1, 10)) if each == "#" else each for each in draw.choice(_CHOICES[label]))
