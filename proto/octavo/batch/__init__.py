"""Bulk jobs, `octavo batch`: from files of documents to files of vectors, through one or several servers.

    inputs ──▶ rows ──▶ documents ──▶ parts ──▶ pool ──▶ servers ──▶ parts ──▶ output
    sources    rows     documents     parts     pool     drivers     run       output

A part is a contiguous range of the input and one file of the output. The existence of the file is the only record that
the part is done, so a job that was killed resumes with the missing parts.
"""
