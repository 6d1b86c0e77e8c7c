"""Command line: one module for each group of commands, each of which adds its own parsers.

Imports every package, but heavy ones only inside the commands that need them.
"""
