"""Records of runs: written, read, printed as a table, drawn on a page, and compared."""
