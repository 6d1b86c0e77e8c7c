"""Files, locks, progress, number formatting and the base class of JSON documents.

Knows nothing of language models; imports errors only.
"""
