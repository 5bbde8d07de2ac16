"""Tasks: which heads of a segment a task needs, and how their numbers become the document's answer. A file each.

To add one: a file here with its task, its merge and its answer; its options and its result in `Task` and `TaskResult`
of the contract; its lines in `server.v1.requests` and `results`, in `server.kserve.requests` and `outputs`; a head in
`encoder.heads`, if it needs a new one.
"""

from server.inference.tasks.classify import Classification, ClassifyTask
from server.inference.tasks.embed import Embedding, EmbedMerge, EmbedTask
from server.inference.tasks.rank import CrossEncodeTask, Ranking, RankTask
from server.inference.tasks.redact import Redaction, RedactTask
from server.inference.tasks.sparse import EmbedSparseTask, SparseEmbedding
from server.inference.tasks.task import Merge, Size, Task
from server.inference.tasks.tokens import ClassifyTokensTask, Entities

TaskAnswer = Embedding | Entities | Redaction | Classification | SparseEmbedding | Ranking

__all__ = [
    "Classification",
    "ClassifyTask",
    "ClassifyTokensTask",
    "CrossEncodeTask",
    "EmbedMerge",
    "EmbedSparseTask",
    "EmbedTask",
    "Embedding",
    "Entities",
    "Merge",
    "RankTask",
    "Ranking",
    "RedactTask",
    "Redaction",
    "Size",
    "SparseEmbedding",
    "Task",
    "TaskAnswer",
]
