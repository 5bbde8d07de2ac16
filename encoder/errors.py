"""The encoder's exceptions.

EncoderError(ValueError)
├── FolderError              the folder cannot be served; the message names the file and the reason
│   ├── MissingFileError     the folder or a required file does not exist
│   ├── DamagedFileError     truncated, of the wrong format, or with a missing or misshapen tensor
│   ├── RemoteCodeError      the model requires custom code
│   └── UnsupportedError     an unsupported family, activation, position scheme, pooling or module
├── SchemeError              unknown number scheme or kernels
├── DeviceError              no such device on this machine
└── BatchError               empty, too long or unknown ids; nonexistent layers; a state that does not fit
"""


class EncoderError(ValueError):
    """Base of all errors of the encoder."""


class FolderError(EncoderError):
    """A model folder that cannot be served."""


class MissingFileError(FolderError):
    """The folder or a required file does not exist."""


class DamagedFileError(FolderError):
    """A file is truncated or has invalid content."""


class RemoteCodeError(FolderError):
    """The model requires custom code, which is never run."""


class UnsupportedError(FolderError):
    """The folder is valid, but the model is not supported."""


class SchemeError(EncoderError):
    """The requested number scheme or kernels are unknown."""


class DeviceError(EncoderError):
    """The device does not exist on this machine."""


class BatchError(EncoderError):
    """The batch or the requested layers do not fit the model."""
