"""Heads: from hidden states to results."""
