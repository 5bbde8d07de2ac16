"""Reads the JSON files that describe a folder's tokenizer."""

import json
from pathlib import Path
from typing import Any

from chunking.errors import TokenizerError


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file does not exist.

    Raises:
        TokenizerError: the file cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: not readable as JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path}: not a JSON object")
    return content


def named_specials(folder: Path) -> set[str]:
    """Collect the special tokens named by `tokenizer_config.json` and `special_tokens_map.json`."""
    names: set[str] = set()
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in read_object(folder / file).items():
            if key.endswith("_token") or key == "additional_special_tokens":
                for token in value if isinstance(value, list) else [value]:
                    content = token.get("content") if isinstance(token, dict) else token
                    if isinstance(content, str):
                        names.add(content)
    return names
