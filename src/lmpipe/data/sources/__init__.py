"""Sources of corpora: generated stories, docstrings of installed packages, and text files.

Each yields documents or blocks of text; `lmpipe.data.corpus` splits and writes them.
May import errors, io and study.
"""
