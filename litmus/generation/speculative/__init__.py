"""Speculative decoding: a cheap draft proposes tokens, and the model verifies several of them in one pass."""
