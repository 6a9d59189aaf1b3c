"""What trackers may record of a run, and the thread that hands it to them. See docs/trackers.md."""
