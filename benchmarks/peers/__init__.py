"""Contenders of the scenarios `engine` and `peers`, each in its own process: their requirements and drivers.

A peer imports only `protocol`, `reading` and its own worker, so its environment needs no package of Octavo's.
"""
