"""What everyone may count and log."""
