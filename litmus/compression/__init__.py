"""Super weights, pruning and quantization of trained models."""
