"""lmpipe: from raw text to a finished study of small language models, reproducibly.

docs/library.md describes the names that `import lmpipe` offers. Each is imported when it is first used, so that
`import lmpipe` and a command load neither torch nor pandas.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmpipe.api import Run, Study, open_study
    from lmpipe.errors import InputError
    from lmpipe.model.handout_weights import from_handout, to_handout
    from lmpipe.model.transformer import TransformerLM
    from lmpipe.tokenizer.bpe_training import train_bpe
    from lmpipe.tokenizer.tokenizer import Tokenizer
    from lmpipe.training.optimizer import AdamW

__version__ = "0.1.0"
__all__ = [
    "AdamW",
    "InputError",
    "Run",
    "Study",
    "Tokenizer",
    "TransformerLM",
    "from_handout",
    "open_study",
    "to_handout",
    "train_bpe",
]
MODULES = {
    "AdamW": "training.optimizer",
    "InputError": "errors",
    "Run": "api",
    "Study": "api",
    "Tokenizer": "tokenizer.tokenizer",
    "TransformerLM": "model.transformer",
    "from_handout": "model.handout_weights",
    "open_study": "api",
    "to_handout": "model.handout_weights",
    "train_bpe": "tokenizer.bpe_training",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used (PEP 562)."""
    if name not in MODULES:
        raise AttributeError(f"module 'lmpipe' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lmpipe.{MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
