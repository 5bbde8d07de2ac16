"""KServe v2 as tritonclient speaks it, held against octavo.v1."""
