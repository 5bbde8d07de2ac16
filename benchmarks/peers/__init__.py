"""Contenders of the `engine` scenario, each a process of its own: requirements, the workers, and how to drive them.

Nothing here is imported by a peer but ``protocol`` and its own worker, so a peer's environment needs none of ours.
"""
