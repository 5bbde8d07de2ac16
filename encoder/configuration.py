"""A folder's architecture: from its configuration, and where that is incomplete through transformers' classes."""

import contextlib
from pathlib import Path
from typing import Any

from encoder.errors import DamagedFileError
from encoder.families import FIELDS, Architecture, architecture
from encoder.folder import read_config


def read_architecture(folder: Path) -> Architecture:
    """Read a folder's architecture; transformers, which takes a second to import, fills in what is left out.

    Raises:
        FolderError: as `encoder.folder.read_config` and `encoder.families.architecture` do.
    """
    config = read_config(folder)
    if "model_type" not in config:
        raise DamagedFileError(f"{folder.name}: config.json names no model_type")
    if config.keys() >= FIELDS:
        with contextlib.suppress(ValueError, TypeError):
            return architecture(config)
    return architecture(_filled(folder, config))


def _filled(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415
    from transformers import AutoConfig  # noqa: PLC0415

    try:
        filled: dict[str, Any] = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        ).to_dict()
    except (ValueError, TypeError, OSError, StrictDataclassError) as error:
        architecture(config)  # says what is wrong in our own words, where we can
        raise DamagedFileError(f"{folder.name}: config.json does not make sense to transformers") from error
    return filled
