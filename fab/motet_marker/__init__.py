"""Nothing to run here."""
