"""What a model's folder says of its tokenizer, beside the tokenizer itself."""

import json
from pathlib import Path
from typing import Any

from chunking.errors import TokenizerError


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if there is no such file.

    Raises:
        TokenizerError: it cannot be read, or is none.
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
    """Collect the tokens that ``tokenizer_config.json`` and ``special_tokens_map.json`` call special."""
    names: set[str] = set()
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in read_object(folder / file).items():
            if key.endswith("_token") or key == "additional_special_tokens":
                for token in value if isinstance(value, list) else [value]:
                    content = token.get("content") if isinstance(token, dict) else token
                    if isinstance(content, str):
                        names.add(content)
    return names
