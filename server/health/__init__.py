"""Liveness, readiness and draining."""
