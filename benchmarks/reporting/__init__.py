"""Records of runs: written and read, as a table, as a page with charts, and held against each other."""
