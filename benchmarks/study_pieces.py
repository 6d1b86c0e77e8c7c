"""Texts that a study may name, or may not, and whole blocks of one: what mutated studies are made of."""

from typing import Any

from benchmarks.faults import MARKER

# Files that a study may name, and some that it may not.
LOCAL_TEXTS = [
    "a.txt",
    "a b.txt",
    "-x.txt",
    "--help",
    "~",
    "$HOME.txt",
    "'q'.txt",
    '"d".txt',
    "{x}.txt",
    "{input}.txt",
    "<results>.txt",
    "*.txt",
    "a\nb.txt",
    "a;b.txt",
    f"$(touch {MARKER}).txt",
    f"`touch {MARKER}`.txt",
    "a\\b.txt",
    " a.txt",
    "a.txt ",
    "%s.txt",
    "😀.txt",
    "e\u0301.txt",
    "\u202ea.txt",
    "\x1b[31m.txt",
    "sub/../a.txt",
    "a//b.txt",
    "./a.txt",
    "a&b.txt",
    "a|b.txt",
    "#",
]
ADDRESSES = [
    "file:none.txt",
    "file:/dev/zero",
    "file:.",
    "file:",
    "file:a\0b",
    "file:pipe",
    "file:" + "x" * 300,
    "file:\ud800",
    "file://a.txt",
    "https://h/a.txt",
    "https://h/a b",
    "https://h/é",
    "https://h/\n",
    "https://h/x\n",
    "https://[::1/x",
    "https://h/" + "x" * 300,
    "https://h/..",
    f"https://h/a?b=$(touch {MARKER})&c='d'",
    "https://h/`id`",
    "https://h/a;b",
    "http://h:99999/x",
    "ftp://h/x",
    "https://h/",
    "https://h/.gz",
    "https://h/x.gz",
    "https://h/%2e%2e%2fx",
    "https://h/a#b",
    "https://h/{x}",
    "https://h/<results>",
    "javascript:x",
    {"url": "https://h/big", "bytes": 2**53},
    {"url": "https://h/a", "sha256": "ab" * 32},
    {"url": "https://h/a", "sha256": "AB" * 32},
    {"url": "https://h/a", "sha256": "ab" * 32 + "\n"},
]
# Blocks that are right, or nearly so, and lead further than chance would.
PIECES: list[Any] = [
    *ADDRESSES,
    *([address] for address in ADDRESSES),
    *(f"file:{name}" for name in LOCAL_TEXTS),
    *(
        {"source": "url", "files": [f"file:{name}"], "valid_fraction": 0.1, "tokenizer": {"vocab_size": 300}}
        for name in LOCAL_TEXTS
    ),
    *(
        {"source": "url", "files": [each], "valid": "file:a.txt", "tokenizer": {"vocab_size": 300}}
        for each in ADDRESSES
    ),
    *(
        {"source": "docstrings", "packages": [each], "tokenizer": {"vocab_size": 300}}
        for each in ("sys", "json", "os.path", "this.x")
    ),
    *(
        {"source": "stories", "documents": 100, "tokenizer": {"vocab_size": size}}
        for size in (257, 300, 2**31, 2**31 + 1)
    ),
    {"source": "stories", "documents": 2**53, "shards": 2**53, "tokenizer": {"vocab_size": 300}},
    *({"corpus": corpus} for corpus in ("stories", "docs", "Stories", "a")),
    {
        "corpus": "stories",
        "sweep": {key: list(range(1, 40)) for key in ("d_ff", "batch_size", "num_evaluations", "eval_tokens")},
    },
    {"corpus": "stories", "sweep": {"max_lr": list(range(1, 3000))}},
    {"corpus": "stories", "seeds": list(range(4000))},
    {
        "corpus": "stories",
        "sweep": {"vocab_size": [300, 301], "betas": [[0.1, 0.2], [0.3, 0.4]], "norm": ["pre", "post"]},
    },
    {
        "corpus": "stories",
        "sweep": {key: [0.123456789012345] for key in ("max_lr", "eps", "max_grad_norm", "rope_theta", "weight_decay")},
    },
    {
        "corpus": "stories",
        "max_lr": {"best_of": "learning_rate", "factor": 5e-324},
        "runs": {"a": {}, "A": {}, "a_b": {}},
    },
    {"corpus": "stories", "runs": {"a": {"sweep": {"max_lr": [0.1]}}, "a_max_lr": {}}},
]
