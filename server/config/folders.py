"""The user's folders, by the XDG base directory specification."""

import os
from collections.abc import Mapping
from pathlib import Path


def xdg_folder(variable: str, default: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder that a variable names; the default, below the user's home, if it is unset, empty or not absolute."""
    named = Path(environ.get(variable, ""))
    return named if named.is_absolute() else Path.home() / default


def cache_home() -> Path:
    """Return the folder of models and cached states: `$XDG_CACHE_HOME/octavo`, by default `~/.cache/octavo`."""
    return xdg_folder("XDG_CACHE_HOME", ".cache") / "octavo"
