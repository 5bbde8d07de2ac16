"""Reads a model folder's architecture: from its configuration or, if that is incomplete, through transformers."""

import contextlib
from pathlib import Path
from typing import Any

from encoder.errors import DamagedFileError
from encoder.families import FIELDS, Architecture, architecture
from encoder.folder import read_config


def read_architecture(folder: Path) -> Architecture:
    """Read a folder's architecture. Transformers, which takes a second to import, fills in missing fields.

    Raises:
        FolderError: as `encoder.folder.read_config` and `encoder.families.architecture` do.
    """
    config = read_config(folder)
    if "model_type" not in config:
        raise DamagedFileError(f"{folder.name}: config.json has no model_type")
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
        architecture(config)  # raises a clearer error if it finds the problem itself
        raise DamagedFileError(f"{folder.name}: transformers cannot read config.json") from error
    return filled
