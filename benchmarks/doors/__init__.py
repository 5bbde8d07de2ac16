"""Clients of other ecosystems against this server: unchanged, with the same vectors, as fast, and safely."""
