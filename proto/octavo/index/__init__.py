"""Local indexes of segments, `octavo index`: a folder's texts, or LangChain's documents, in one SQLite file.

    folder ──▶ files ──▶ Client.sync ──▶ store ──▶ search
    files      folder                    store     search

An index has each document's segments with their spans, and one vector per digest. A change of a document computes only
segments whose digest the index does not have, and is one transaction.
"""
