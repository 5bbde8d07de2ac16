"""Reads repositories of a Hugging Face hub: which files a commit has, and their content, checked against its digests.

huggingface_hub speaks the protocol, and reads HF_TOKEN and the proxy's variables. Its own downloads start anew in each
process and write links, so `Hub.download` appends to a file of ours, which any later process continues.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from server.config.hub import HubModel
from server.fetch.errors import DownloadError

TIMEOUT_SECONDS: Final = 30.0
_SAFE: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)  # no absolute path, no "..", no hidden file
_REFUSALS: Final = {
    401: "does not accept HF_TOKEN",
    403: "denies access: HF_TOKEN needs permission to read this repository",
}

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a commit.

    Attributes:
        digest: hexadecimal; SHA-256 of large files, git's SHA-1 of others.
    """

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at a commit. Files whose names are unsafe as relative paths are left out."""

    commit: str
    files: dict[str, RemoteFile]


class Hub:
    """A hub's client.

    Raises:
        DownloadError: the endpoint is not a URL.
    """

    def __init__(self, endpoint: str) -> None:
        with contextlib.suppress(ValueError):
            if urlsplit(endpoint).scheme in {"http", "https"} and urlsplit(endpoint).hostname:
                self._endpoint = endpoint.rstrip("/")
                return
        raise DownloadError(f"HF_ENDPOINT must be a URL with http:// or https://, not {endpoint!r}")

    def snapshot(self, model: HubModel) -> Snapshot:
        """Resolve a model's revision and list its files.

        Raises:
            DownloadError: the hub cannot be reached, or has no such repository or revision for this token.
        """
        from huggingface_hub import HfApi  # noqa: PLC0415 - takes half a second

        with self._explained(model):
            info = HfApi(endpoint=self._endpoint).model_info(
                model.repository, revision=model.revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
            files = [
                RemoteFile(each.rfilename, int(each.size or 0), each.lfs["sha256"] if each.lfs else str(each.blob_id))
                for each in info.siblings or ()
            ]
            if not info.sha:
                raise ValueError("no commit")
        return Snapshot(info.sha, {file.name: file for file in files if _SAFE.fullmatch(file.name)})

    def download(self, model: HubModel, commit: str, file: RemoteFile, target: Path, advance: Advance) -> None:
        """Append to `target` what it lacks of a file, and check the whole. `advance` is called with numbers of bytes.

        Raises:
            DownloadError: the hub cannot be reached, or the content does not match its digest.
        """
        from huggingface_hub.file_download import hf_hub_url, http_get  # noqa: PLC0415
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

        target.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(model), target.open("ab") as out:
            if out.tell() > file.size:
                out.seek(0)
                out.truncate()
            advance(out.tell())
            http_get(
                hf_hub_url(model.repository, file.name, revision=commit, endpoint=self._endpoint),
                out,
                resume_size=out.tell(),
                headers=build_hf_headers(library_name="octavo"),
                expected_size=file.size,
                displayed_filename=file.name,
                tqdm_class=_reporting(advance),
            )
        if _digest(target, sha256=len(file.digest) == hashlib.sha256().digest_size * 2) != file.digest:
            target.unlink()
            raise DownloadError(f"{model}: {file.name} does not match its digest; run the command again")

    @contextlib.contextmanager
    def _explained(self, model: HubModel) -> Iterator[None]:
        """Convert errors of huggingface_hub, of the connection and of the disk to DownloadError."""
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # noqa: PLC0415

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would log each retry
        try:
            yield
        except (HTTPError, OSError, ValueError, TypeError, KeyError) as error:
            raise DownloadError(f"{model}: {self._words(error, model)}") from None

    def _words(self, error: Exception, model: HubModel) -> str:
        from huggingface_hub import errors  # noqa: PLC0415

        page = f"{self._endpoint}/{model.repository}"
        if isinstance(error, errors.HfHubHTTPError):
            named = {
                errors.GatedRepoError: f"gated: accept its terms at {page}, and set HF_TOKEN to your token",
                errors.RepositoryNotFoundError: f"{self._endpoint} has no such repository, or it is private: check the "
                "name, or set HF_TOKEN",
                errors.RevisionNotFoundError: f"{page} has no such revision",
            }
            status = error.response.status_code
            refused = _REFUSALS.get(status, f"answered with HTTP status {status}")
            return named.get(type(error), f"{self._endpoint} {refused}")
        match error:
            case errors.OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE is set, so nothing is downloaded"
            case UnicodeEncodeError():
                return "HF_TOKEN has characters that no token has"
            case errors.HTTPError():  # type: ignore[attr-defined]  # httpx's
                return f"no answer from {self._endpoint}: {str(error) or 'timed out'}"
            case OSError():  # without words of the system: huggingface_hub's
                ended = f"the connection to {self._endpoint} ended early; run the command again to resume"
                return error.strerror or ended
        return f"{self._endpoint} does not answer as a Hugging Face hub does"


def _digest(path: Path, *, sha256: bool) -> str:
    with path.open("rb") as content:
        if sha256:
            return hashlib.file_digest(content, "sha256").hexdigest()
        data = content.read()  # git's blobs are small
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _reporting(advance: Advance) -> Any:
    """What huggingface_hub takes for a class of progress bars."""

    class Reporting(contextlib.AbstractContextManager["Reporting"]):
        def __init__(self, **_: Any) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, steps: int) -> None:
            advance(steps)

    return Reporting
