"""Conversations: messages and the chat template that writes them as text."""
