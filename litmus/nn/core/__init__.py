"""What every part is built on: registry, contexts, cache, auxiliary losses."""
