"""What can go wrong in this room.

EncoderError(ValueError)
├── FolderError              the folder cannot be served; the message says which file and why
│   ├── MissingFileError     no such folder, or a file that it must hold is absent
│   ├── DamagedFileError     truncated, not what its name says, or with a tensor missing or of the wrong shape
│   ├── RemoteCodeError      the model would have to run code of its own
│   └── UnsupportedError     another family, activation, position scheme, pooling or module than we know
├── SchemeError              no such number scheme, or no such kernels
├── DeviceError              no such device here
└── BatchError               empty, too long or unknown ids; layers that do not exist; a state that does not fit
"""


class EncoderError(ValueError):
    """Base of all errors of the encoder."""


class FolderError(EncoderError):
    """A model folder that cannot be served."""


class MissingFileError(FolderError):
    """The folder, or a file that it must hold, does not exist."""


class DamagedFileError(FolderError):
    """A file is truncated or does not hold what it must."""


class RemoteCodeError(FolderError):
    """The model asks for code of its own, which is never run."""


class UnsupportedError(FolderError):
    """The folder is sound, but of a kind that we do not know."""


class SchemeError(EncoderError):
    """The number scheme or the kernels asked for are unknown."""


class DeviceError(EncoderError):
    """The device does not exist here."""


class BatchError(EncoderError):
    """The batch, or the layers asked for, do not fit the model."""
