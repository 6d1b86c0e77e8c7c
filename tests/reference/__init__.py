"""Slow, obviously right versions of what lmpipe does fast."""
