"""Search: continuations that maximize a score instead of being sampled."""
