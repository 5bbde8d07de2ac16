"""Octavo: the contract's stubs (`octavo.v1`), the client (`octavo.client`) and the command line (`octavo.cli`)."""

__version__ = "0.1.0.dev0"
