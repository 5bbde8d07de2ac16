"""Tasks: which heads of a segment a task needs, and how their numbers become the document's answer. A file each."""

from server.inference.tasks.embed import Embedding, EmbedMerge, EmbedTask

__all__ = ["EmbedMerge", "EmbedTask", "Embedding"]
