"""Provenance: digests of the code, the environment, a record beside each result, and checksums of all results.

Imports io and errors only; the table of stages and the plan come in as arguments.
"""
