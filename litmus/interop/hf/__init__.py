"""Hugging Face model folders: one adapter class per family of architectures."""
