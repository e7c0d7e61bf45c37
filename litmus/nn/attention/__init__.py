"""Attention and its variants, with their caches."""
