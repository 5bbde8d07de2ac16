"""The types of settings' values: addresses, keys' records, URLs, sizes, and numbers with bounds."""

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo

from octavo.sizes import parse_size

UNIX = "unix:"
MAX_PORT = 65535
MAX_SOCKET_PATH_BYTES = 107  # Linux's sun_path without its NUL


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port` into host and port; raise ValueError for anything else."""
    match = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^\s:/\[\]]+)):(\d{1,5})", address)
    if match is None or int(match[3]) > MAX_PORT:
        raise ValueError(f"{address!r} is not an address: write host:port, [::1]:port or unix:/path")
    return match[1] or match[2], int(match[3])


def is_local(address: str) -> bool:
    """Tell whether only this machine can reach the address: a Unix socket, a loopback IP address or `localhost`."""
    if address.startswith(UNIX):
        return True
    host, _ = split_address(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # another name may resolve differently after the check


def _check_address(address: str) -> str:
    if not address.startswith(UNIX):
        split_address(address)
    elif not 1 <= len(os.fsencode(address.removeprefix(UNIX))) <= MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"the path of a Unix socket must have 1 to {MAX_SOCKET_PATH_BYTES} bytes")
    return address


def check_local(address: str, allowed_by: str, info: ValidationInfo) -> None:
    """Raise ValueError for an address that others can reach, unless another setting of its table allows that."""
    if not (info.data.get(allowed_by.rpartition(".")[2]) or is_local(address)):
        raise ValueError(
            f"{address} can be reached from other machines in plain text; set {allowed_by} = true to allow"
        )


def _check_key(text: str) -> str:
    if not re.fullmatch(r"[0-9a-z]{12}:[0-9a-f]{32}:[0-9a-f]{64}(:.+)?", text):
        raise ValueError("a key's record is ID:SALT:DIGEST or ID:SALT:DIGEST:EXPIRES")
    return text


def read_size(value: Any) -> Any:
    """Read "4GB" or "1.5 GiB"; what is no size stays as it is."""
    size = parse_size(value) if isinstance(value, str) else None
    return value if size is None else size


class StorageUrl(SecretStr):
    """A URL, shown without its password."""

    def _display(self) -> str:
        hidden = re.sub(r"//[^/?]*@", "//***@", self.get_secret_value())
        return re.sub(r"([?&]password=)[^&]*", r"\1***", hidden)


def _check_storage(storage: StorageUrl) -> StorageUrl:
    if not re.fullmatch(r"memory|rediss?://\S+|redis\+unix:///\S+", storage.get_secret_value()):
        raise ValueError("must be memory, redis://host:port/db, rediss://host:port/db or redis+unix:///path?db=0")
    return storage


KeyRecord = Annotated[str, AfterValidator(_check_key)]
Storage = Annotated[StorageUrl, AfterValidator(_check_storage)]
Address = Annotated[str, AfterValidator(_check_address)]
MessageBytes = Annotated[int, Field(ge=1, le=(1 << 31) - 1 - (1 << 20))]
"""gRPC's int32 limit less 1 MiB for the rest of the message."""
Count = Annotated[int, Field(ge=1)]
CountOrAuto = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]  # of a table: lower case, no dots
# Half width in tokens; "none" is a more readable alternative to 0.
Window = Annotated[int, Field(ge=0), BeforeValidator(lambda value: 0 if value == "none" else value)]
