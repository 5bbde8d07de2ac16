"""Bulk jobs, `octavo batch`: files of documents in, files of vectors out, by one server or several.

    inputs ──▶ rows ──▶ documents ──▶ parts ──▶ pool ──▶ servers ──▶ parts ──▶ output
    sources    rows     documents     parts     pool     drivers     run       output

A part is a stretch of the input, in its order, and a file of the output. That the file is there says that it is done:
nothing else is written down, so that a job that was killed begins again with the parts that are missing.
"""
