"""Run state in SQL and adapter states in files."""
