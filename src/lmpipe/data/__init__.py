"""Data: downloads, corpora and their splits, token files, batches and validation windows.

May import tokenizer, kernels, study, provenance, io and errors.
"""
