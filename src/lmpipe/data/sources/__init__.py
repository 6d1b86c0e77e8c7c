"""Sources of corpora: generated stories, docstrings of installed packages, and text files.

Each yields documents or blocks of text, which `lmpipe.data.corpus` splits and writes.
May import what data may import.
"""
