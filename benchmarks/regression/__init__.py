"""Has it become slower? Ratios to fixed work that shares the machine, held against a committed baseline."""
