"""When a segment runs."""
