"""Tokens: tokenizers, the split into train and held-out text, and token files."""
