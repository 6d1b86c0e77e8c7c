"""lmpipe: from raw text to a finished study of small language models, reproducibly."""

__version__ = "0.1.0"


class InputError(Exception):
    """Bad input, told in one line: file, place, expected, found, remedy; shown without a traceback."""
