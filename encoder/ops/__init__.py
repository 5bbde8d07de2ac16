"""The operations seam."""
