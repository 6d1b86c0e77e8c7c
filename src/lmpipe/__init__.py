"""lmpipe: from raw text to a finished study of small language models, reproducibly."""

__version__ = "0.1.0"
