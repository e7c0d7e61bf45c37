"""The WorkerTransformer."""
