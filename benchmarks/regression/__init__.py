"""Detects slowdowns: ratios to fixed work on the same machine, compared with a committed baseline."""
