"""Whether the process lives, is ready, or is stopping."""
