"""Contenders of the scenarios `engine` and `peers`, each a process of its own: what they need, and how to drive them.

Nothing here is imported by a peer but `protocol`, `reading` and its own worker, so a peer's environment needs none
of ours.
"""
