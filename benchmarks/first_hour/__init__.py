"""What a new user meets: faults of everyday life, outputs, deadlines, the start."""
