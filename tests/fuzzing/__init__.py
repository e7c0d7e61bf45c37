"""What tests/fuzz.py and tests/kills.py share: a small world of files, commands run in it, and what may come of that."""
