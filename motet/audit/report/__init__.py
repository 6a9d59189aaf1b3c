"""The report on one run: the same facts as JSON and as one page that needs nothing but itself."""
