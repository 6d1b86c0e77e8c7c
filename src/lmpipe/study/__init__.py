"""The study file: its schema, its loader, and the path of every result.

Imports io and errors only. Every package but io and provenance may import it.
"""
