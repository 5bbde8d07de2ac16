"""`OctavoIndex`, for LangChain's indexing API. Needs langchain-core."""

import json
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.indexing import DeleteResponse, DocumentIndex, UpsertResponse
from pydantic import ConfigDict, Field, PrivateAttr

from octavo.client import Change, Client, Held
from octavo.index.store import Hit, Store

_MAX_KNOWN = 16_384  # digests of other documents with the same source that a call brings


class OctavoIndex(DocumentIndex):
    """Documents of any length in one SQLite file, which `langchain_core.indexing.index` keeps in step with a source.

    Documents need not be split: the index holds a vector for each of their segments, and retrieves passages. A new
    version of a document costs the segments that changed, also if `index` gives it a new id: it reuses those of all
    documents with the same source. Unlike `octavo index`, the file has the documents' texts and metadata.

    Attributes:
        client: calls the server.
        path: the index's file, which is made if it does not exist.
        source_key: the metadata that names a document's source, as `source_id_key` of `index`.
        k: number of passages to retrieve.
        arguments: `CallArguments` of every call, such as `model` and `segmentation`, always the same for an index.
        in_flight: documents in progress at a time.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: Client
    path: Path
    source_key: str = "source"
    k: int = Field(default=4, ge=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    in_flight: int = Field(default=4, ge=1)
    _store: Store = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Open the index."""
        super().model_post_init(context)
        self._store = Store(self.path, create=True)
        self._store.configure({"kind": "langchain"})

    def upsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:  # noqa: ARG002
        """Add or replace documents. Those without an id get one.

        Raises:
            OctavoError: a document failed. `index` would take it for indexed if it were only returned as failed.
        """
        named = [item if item.id else item.model_copy(update={"id": str(uuid.uuid4())}) for item in items]
        with ThreadPoolExecutor(self.in_flight) as pool:
            ids = list(pool.map(self._upsert, named))
        return UpsertResponse(succeeded=ids, failed=[])

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:  # noqa: ARG002
        """Delete documents; ids that do not exist are ignored.

        Raises:
            ValueError: there are no ids.
        """
        if ids is None:
            raise ValueError("ids must be given")
        deleted = self._store.delete(ids)
        return DeleteResponse(succeeded=deleted, num_deleted=len(deleted), num_failed=0, failed=[])

    def get(self, ids: Sequence[str], /, **kwargs: Any) -> list[Document]:  # noqa: ARG002
        """Return the documents of these ids that exist, with their whole texts."""
        found = ((each, self._store.about(each)) for each in ids)
        return [_document(each, about) for each, about in found if about is not None]

    def close(self) -> None:
        """Close the index's file."""
        self._store.close()

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002
    ) -> list[Document]:
        """The passages that resemble the query most. Metadata has their span and score beside the document's."""
        fingerprint = self._store.fingerprint
        if not fingerprint:
            return []
        asked = {**self.arguments, "input_type": "query", "expected_fingerprint": fingerprint}
        answer = self.client.embed(query, **asked)
        return list(map(_passage, self._store.nearest(np.asarray(answer.vector, np.float32), self.k)))

    def _upsert(self, document: Document) -> str:
        about = json.dumps({"text": document.page_content, "metadata": document.metadata})
        name = str(document.id)
        source = document.metadata.get(self.source_key)
        index = _Sourced(self._store, about, None if source is None else str(source))
        report = self.client.sync(name, document.page_content, index, **self.arguments)
        if not (report.added or report.unchanged):  # no token, so perhaps no change to apply
            self._store.clear(name, about, index.source)
        return name


@dataclass(frozen=True, slots=True)
class _Sourced:
    """A `SegmentIndex` in which a new document has the segments of those with the same source already."""

    store: Store
    about: str
    source: str | None

    def held(self, document_id: str) -> Held | None:
        own = self.store.held(document_id)
        if self.source is None or (own and own.digests):
            return own
        others = self.store.held_of_source(self.source)
        return replace(others, digests=others.digests[:_MAX_KNOWN]) if others else None

    def apply(self, document_id: str, change: Change) -> None:
        self.store.apply(document_id, change, self.about, self.source)


def _document(document_id: str, about: str) -> Document:
    known = json.loads(about)
    return Document(id=document_id, page_content=known["text"], metadata=known["metadata"])


def _passage(hit: Hit) -> Document:
    whole = _document(hit.document_id, hit.about)
    place = {"char_start": hit.char_start, "char_end": hit.char_end, "score": hit.score}
    return Document(
        id=hit.document_id,
        page_content=whole.page_content[hit.char_start : hit.char_end],
        metadata={**whole.metadata, **place},
    )
