"""Real tokenizers for all tests of this room."""

from pathlib import Path

import pytest

from chunking import Tokenizer, load_tokenizer
from server.config.folders import cache_home


def model_folder(name: str) -> Path:
    folder = cache_home() / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not there; `make setup` fetches it")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Tokenizer:
    """WordPiece, English."""
    return load_tokenizer(model_folder("all-MiniLM-L6-v2"))


@pytest.fixture(scope="session")
def e5_folder() -> Path:
    return model_folder("multilingual-e5-small")


@pytest.fixture(scope="session")
def e5(e5_folder: Path) -> Tokenizer:
    """SentencePiece, a hundred languages."""
    return load_tokenizer(e5_folder)


@pytest.fixture(scope="session", params=["minilm", "e5"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each of them in turn."""
    found: Tokenizer = request.getfixturevalue(request.param)
    return found
