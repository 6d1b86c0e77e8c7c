"""The study file: its schema, its loader, and the path of every result.

Imports io and errors only. Everything else in lmpipe may import it, but provenance and io.
"""
