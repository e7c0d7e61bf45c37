"""Text: from the name of a corpus to a stream of documents."""
