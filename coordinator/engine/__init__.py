"""The round engine and the two grids that it drives."""
