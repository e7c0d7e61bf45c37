"""Chat: conversations with a model in the terminal."""
