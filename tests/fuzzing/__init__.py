"""What fuzz.py and kills.py share: a small world of files, commands run in it, and what may come of that."""
