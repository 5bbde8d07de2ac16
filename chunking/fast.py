"""Hugging Face's fast tokenizers: any ``tokenizer.json``."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers

from chunking.errors import TextError, TokenizerError
from chunking.tokenizer import Frame, Ids, Offsets, Tokens


class FastTokenizer:
    """A ``tokenizer.json``, freed of what it says about truncation and padding."""

    def __init__(self, specification: dict[str, Any]) -> None:
        canonical = json.dumps(specification, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        self._tokenizer: Any = tokenizers.Tokenizer.from_str(canonical)
        self._tokenizer.encode_special_tokens = True
        self.digest = hashlib.sha256(b"tokenizer.json\0" + canonical.encode("ascii")).hexdigest()
        self._plain = _specials_around(self._tokenizer)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads ``tokenizer.json``, and which added tokens are special from the files beside it.

        Raises:
            TokenizerError: the file is no tokenizer.
        """
        path = folder / "tokenizer.json"
        try:
            specification = json.loads(path.read_text("utf-8"))
            # Many files carry the settings of a training run: MiniLM's cuts at 128 tokens and pads to 128.
            specification |= {"truncation": None, "padding": None}
            named = named_specials(folder) | set((specification.get("post_processor") or {}).get("special_tokens", ()))
            for token in specification["added_tokens"]:
                # `encode_special_tokens` covers only what is marked; a special that is not would still be recognised
                # in a user's text.
                token["special"] = token["special"] or token["content"] in named
            return cls(specification)
        except Exception as error:  # tokenizers raises bare Exception
            raise TokenizerError(f"{path}: not a readable tokenizer ({type(error).__name__})") from error

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """See ``Tokenizer.encode``."""
        for text in texts:
            check_unicode(text)
        # encode_batch gives up the GIL, encode does not.
        return [_tokens(encoding) for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def frame(self, prefix: str = "") -> Frame:
        """See ``Tokenizer.frame``."""
        head, tail = self._plain
        return Frame(np.concatenate([head, self.encode([prefix])[0].ids]) if prefix else head, tail)


def named_specials(folder: Path) -> set[str]:
    """The tokens that ``tokenizer_config.json`` and ``special_tokens_map.json`` call special."""
    names: set[str] = set()
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / file
        if not path.exists():
            continue
        for key, value in json.loads(path.read_text("utf-8")).items():
            if key.endswith("_token") or key == "additional_special_tokens":
                for token in value if isinstance(value, list) else [value]:
                    content = token.get("content") if isinstance(token, dict) else token
                    if isinstance(content, str):
                        names.add(content)
    return names


def check_unicode(text: str) -> None:
    """Raises ``TextError`` for a lone surrogate, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(error.start) from None


def _tokens(encoding: Any) -> Tokens:
    offsets: Offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    return Tokens(np.array(encoding.ids, np.int32), offsets[:, 0], offsets[:, 1])


def _specials_around(tokenizer: Any) -> tuple[Ids, Ids]:
    """The ids that the post-processor puts before and after a text, found with one."""
    encoding = tokenizer.encode("a")
    own = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
    ids: Ids = np.array(encoding.ids, np.int32)
    return ids[: own[0]], ids[own[-1] + 1 :]
