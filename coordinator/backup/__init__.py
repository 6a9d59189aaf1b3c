"""A coordinator's home at one moment in one file, and the way back: checked whole before anything is written."""
