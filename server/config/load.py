"""From a TOML file, environment variables and flags to `Settings`: every fault at once, every value's origin known.

A source is a list of leaves: a path into the tree, a value, and where it was found. Laid over one another by rank they
make the tree; because a leaf remembers its place, so does a fault, and so does `octavo config show`.

(Not pydantic-settings: it stops at the first variable that it cannot decode and does not name it, it takes no notice of
variables that are misspelt, and it forgets where a value came from.)

    ConfigurationError(ValueError)    what was configured cannot be used; .faults holds all that is wrong
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from server.config.lines import Key, line_of, lines_of
from server.config.schema import Section, Settings

PREFIX = "OCTAVO_"
FILE_VARIABLE = "OCTAVO_CONFIG"
LISTS = {("server", "listen"), ("models",)}
"""Settings that hold several values; variables and flags may part these by commas."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was found: `default`, `file NAME`, `environment VARIABLE` or `flag FLAG`."""

    kind: str
    place: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.place}".rstrip()


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of one source."""

    path: tuple[str | int, ...]
    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: the setting ("" where a whole source is at fault), why, and where it was found."""

    setting: str
    message: str
    origin: Origin
    line: int | None = None

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        return f"{self.setting}{': ' if self.setting else ''}{self.message} ({self.origin}{line})"


class ConfigurationError(ValueError):
    """What was configured cannot be used."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, faults)))


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings and the leaves that they were made of, the highest rank last."""

    settings: Settings
    leaves: tuple[Leaf, ...] = ()

    def values(self) -> Iterator[Leaf]:
        """Yield every setting that holds, defaults included, in the tree's order."""
        yield from self._values((), self.settings)

    def _values(self, path: tuple[str | int, ...], section: Section) -> Iterator[Leaf]:
        for key in type(section).model_fields:
            here, value = (*path, key), getattr(section, key)
            if isinstance(value, Section):
                yield from self._values(here, value)
            elif here == ("models",):
                for index, model in enumerate(value):
                    yield from self._values((*here, index), model)
            elif isinstance(value, dict):
                for name, table in value.items():
                    yield from self._values((*here, name), table)
            else:
                given = key in section.model_fields_set
                yield Leaf(here, value, _origin(here, self.leaves) if given else DEFAULT)


def load(
    file: Path | None = None, flags: Iterable[Leaf] = (), environ: Mapping[str, str] | None = None
) -> Configuration:
    """Read all sources and check them together: flags over environment over file over defaults.

    Args:
        file: the TOML file; by default the one that `OCTAVO_CONFIG` names, if it does.
        flags: what the command line says, see `flag` and `assignment`.
        environ: environment variables, `OCTAVO_` names with `__` between the levels; none by default.

    Raises:
        ConfigurationError: with every fault of every source.

    """
    environ = environ or {}
    faults: list[Fault] = []
    lines: dict[Key, int] = {}
    leaves = [*_read_file(file, environ, faults, lines), *_read_environment(environ, faults), *flags]
    try:
        settings = Settings.model_validate(_overlay(leaves, faults))
    except ValidationError as error:
        faults += [_fault(details, leaves, lines) for details in error.errors(include_url=False)]
    if faults:
        raise ConfigurationError(faults)
    return Configuration(settings, tuple(leaves))


def flag(setting: str, value: Any, name: str) -> Leaf:
    """Make the leaf of a flag: the setting's dotted name, its value, the flag's own name."""
    return Leaf(tuple(setting.split(".")), value, Origin("flag", name))


def assignment(text: str) -> Leaf:
    """Make the leaf of `--set section.key=value`; raise ValueError where there is no such form."""
    setting, equals, value = text.partition("=")
    if not (equals and setting.strip()):
        raise ValueError("write --set section.key=value")
    path = tuple(setting.strip().split("."))
    return Leaf(path, _decode(path, value), Origin("flag", f"--set {setting.strip()}"))


def dotted(path: Iterable[str | int]) -> str:
    """Write a path as people do: `server.listen`, `models[0].scheme`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _read_file(file: Path | None, environ: Mapping[str, str], faults: list[Fault], lines: dict[Key, int]) -> list[Leaf]:
    origin = Origin("flag", "--config")
    if file is None:
        if not environ.get(FILE_VARIABLE):
            return []
        file, origin = Path(environ[FILE_VARIABLE]), Origin("environment", FILE_VARIABLE)
    try:
        text = file.read_bytes().decode()
        tree = tomllib.loads(text)
    except OSError as error:
        faults.append(Fault("", f"cannot read {file}: {error.strerror}", origin))
    except UnicodeDecodeError:
        faults.append(Fault("", f"{file} is not UTF-8", origin))
    except tomllib.TOMLDecodeError as error:
        faults.append(Fault("", f"{file} is not TOML: {error}", origin))
    else:
        lines.update(lines_of(text))
        return list(_flatten((), tree, Origin("file", str(file))))
    return []


def _flatten(path: tuple[str, ...], value: Any, origin: Origin) -> Iterator[Leaf]:
    # An empty table says that there is one, a client with defaults alone; an empty file says nothing.
    if isinstance(value, dict) and (value or not path):
        for key, child in value.items():
            yield from _flatten((*path, key), child, origin)
    else:
        yield Leaf(path, value, origin)


def _read_environment(environ: Mapping[str, str], faults: list[Fault]) -> Iterator[Leaf]:
    slips = {_variable(path, "_"): _variable(path) for path in _all_settings()}
    for variable, text in sorted(environ.items()):
        path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        origin = Origin("environment", variable)
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE:
            continue
        if len(path) == 1 and path not in LISTS:  # the client's, or a level parted by one underscore
            if variable in slips:
                faults.append(Fault("", f"unknown variable; did you mean {slips[variable]}?", origin))
            continue
        try:
            yield Leaf(path, _decode(path, text), origin)
        except ValueError:
            faults.append(Fault(dotted(path), "is neither JSON nor a list parted by commas", origin))


def _variable(path: Iterable[str], between: str = "__") -> str:
    return PREFIX + between.join(path).upper()


def _all_settings() -> Iterator[tuple[str, ...]]:
    for section, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from ((section, key) for key in info.annotation.model_fields)


def _decode(path: tuple[str, ...], text: str) -> Any:
    """Read a variable's or a flag's text: pydantic knows how to read scalars, lists are JSON or parted by commas."""
    if path not in LISTS:
        return text
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _overlay(leaves: Iterable[Leaf], faults: list[Fault]) -> dict[str, Any]:
    tree: dict[Any, Any] = {}
    for leaf in leaves:
        table = tree
        for depth, key in enumerate(leaf.path[:-1], start=1):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                parent = dotted(leaf.path[:depth])
                faults.append(Fault(dotted(leaf.path), f"{parent} is no table here; set it as a whole", leaf.origin))
                break
        else:
            table[leaf.path[-1]] = table.get(leaf.path[-1], {}) if leaf.value == {} else leaf.value
    return tree


def _origin(path: tuple[str | int, ...], leaves: Sequence[Leaf]) -> Origin:
    """Find the highest source of what lies at, above or below `path`."""
    for leaf in reversed(leaves):
        if all(a == b for a, b in zip(leaf.path, path, strict=False)):
            return leaf.origin
    return DEFAULT


_WORDS = {
    "missing": "is missing",
    "model_type": "must be a table of settings",
    "model_attributes_type": "must be a table of settings",
    "dict_type": "must be a table of tables",
    "tuple_type": "must be a list",
    "string_type": "must be a string",
    "path_type": "must be a path",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_pattern_mismatch": "must be 1 to 64 lower-case letters, digits, hyphens and underscores",
    "string_too_short": "must not be empty",
}
"""Plain words for pydantic's types of errors, where its own messages speak of Python."""

_FORMS = {
    "device": "must be auto, cpu or cuda:N",
    "name": "must be letters, digits, dots, hyphens and underscores",
}
"""Plain words for settings whose values have a form."""


def _fault(details: ErrorDetails, leaves: Sequence[Leaf], lines: Mapping[Key, int]) -> Fault:
    path = details["loc"]
    if details["type"] == "extra_forbidden":
        message = "unknown setting" + _suggestion(path)
    elif (whole := details["type"].startswith("int_")) and "bytes" in str(path[-1]):
        message = 'must be a number of bytes, or a size such as "4GB" or "4GiB"'
    elif whole:
        message = "must be a whole number"
    elif words := _FORMS.get(str(path[-1])) or _WORDS.get(details["type"]):
        unit = "bytes" in str(path[-1])
        message = words.format(**{name: _bound(bound, unit) for name, bound in details.get("ctx", {}).items()})
    else:
        message = details["msg"].removeprefix("Value error, ").replace("Input should", "must")
    path = path[:-1] if path[-1:] == ("[key]",) else path  # pydantic's way to say that a table's name is wrong
    origin = _origin(path, leaves)
    return Fault(dotted(path), message, origin, line_of(path, lines) if origin.kind == "file" else None)


def _bound(bound: Any, in_bytes: bool) -> str:
    """Write a bound as people do: 1, not 1.0; of bytes "1MiB", not 1048576."""
    if in_bytes and bound:
        for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
            if bound % 1024**power == 0:
                return f'"{bound // 1024**power}{unit}"'
    return f"{bound}".removesuffix(".0")


def _suggestion(path: tuple[str | int, ...]) -> str:
    """Name the nearest key beside the unknown one, else the same key in another section."""
    *parents, key = path
    siblings = _keys(tuple(parents))
    if near := difflib.get_close_matches(str(key), siblings, n=1):
        return f"; did you mean {dotted((*parents, near[0]))}?"
    for setting in _all_settings():
        if setting[-1] == key:
            return f"; did you mean {dotted(setting)}?"
    return f"; there are {', '.join(siblings)}"


def _keys(path: tuple[str | int, ...]) -> list[str]:
    section: Any = Settings
    for key in path:
        if get_origin(section) in {tuple, dict}:  # a list's table, by number, or one of a dictionary, by name
            section = next(each for each in get_args(section) if isinstance(each, type))
        else:
            section = section.model_fields[str(key)].annotation
    return list(section.model_fields)
