"""Charts as SVG of our own, drawn on the server; colours are CSS variables, so that dark and light both hold."""
