"""Norms, positions, feedforwards, linear layers and blocks."""
