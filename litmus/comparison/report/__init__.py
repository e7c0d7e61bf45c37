"""The report of a comparison: the table in the terminal and a self-contained HTML page."""
