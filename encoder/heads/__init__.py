"""Heads: hidden states to numbers."""
