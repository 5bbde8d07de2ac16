"""Octavo: API stubs (`octavo.v1`), client (`octavo.client`) and command line (`octavo.cli`)."""

__version__ = "0.1.0.dev0"
