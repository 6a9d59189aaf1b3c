"""The typed Python client of the control API. ``motet.connect`` opens a connection; the commands use the same."""
