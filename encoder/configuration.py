"""Reads a model folder's architecture through transformers' configuration classes."""

from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from encoder.errors import DamagedFileError
from encoder.families import Architecture, architecture
from encoder.folder import read_config


def read_architecture(folder: Path) -> Architecture:
    """Read a folder's architecture; transformers fills in defaults.

    Raises:
        FolderError: as `encoder.folder.read_config` and `encoder.families.architecture` do.
    """
    config = read_config(folder)
    if "model_type" not in config:
        raise DamagedFileError(f"{folder.name}: config.json has no model_type")
    try:
        filled = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).to_dict()
    except (ValueError, TypeError, OSError, StrictDataclassError) as error:
        architecture(config)  # raises a clearer error if it finds the problem itself
        raise DamagedFileError(f"{folder.name}: transformers cannot read config.json") from error
    return architecture(filled)
