"""One table of corruptions for each parser: ways to damage a file of its kind."""

import json
from collections.abc import Callable

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4
NESTED = b'{"a":' * 100_000
# Any bytes are a text, so a text shows no damage.
ANY_FILE = {"empty": lambda data: b"", "half": lambda data: data[: len(data) // 2], "png": lambda data: PNG}
CORRUPTIONS: dict[str, dict[str, Callable[[bytes], bytes]]] = {
    "text": ANY_FILE
    | {
        "crlf": lambda data: data.replace(b"\n", b"\r\n"),
        "nul bytes": lambda data: data.replace(b" ", b"\0"),
        "no UTF-8": lambda data: data.replace(b"a", b"\xff\xc3"),
        "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
        "half a delimiter": lambda data: data.rstrip()[:-4],
        "one byte": lambda data: b"a",
        "only white space": lambda data: b" \n" * 100,
        "only delimiters": lambda data: b"<|endoftext|>\n" * 9,
    },
    "json": ANY_FILE
    | {
        "a list": lambda data: b"[1, 2]",
        "other keys": lambda data: b'{"a": 1}',
        "other kinds": lambda data: json.dumps({key: [None] for key in json.loads(data)}).encode(),
        "nested": lambda data: NESTED,
        "nan": lambda data: b'{"a": NaN}',
        "huge": lambda data: b'{"a": 1e400}',
        "long": lambda data: b'{"a": ' + b"9" * 5000 + b"}",
        "a key twice": lambda data: data.replace(b"{", b'{"a": 1, "a": 2,', 1),
        "no UTF-8": lambda data: b'{"a": "\xff"}',
    },
    "yaml": ANY_FILE
    | {
        "a list": lambda data: b"[1, 2]",
        "other keys": lambda data: b"a: 1",
        "nested": lambda data: b"[" * 50,
        "a tab": lambda data: data.replace(b"  ", b"\t"),
        "a key twice": lambda data: data + b"study: again\n",
        "no UTF-8": lambda data: data + b"# \xff\n",
        "nul bytes": lambda data: data + b"\0",
    },
    "resolved study": ANY_FILE
    | {
        "a list": lambda data: b"[1, 2]",
        "other keys": lambda data: b"a: 1",
        "nested": lambda data: b"[" * 50,
        "nul bytes": lambda data: data + b"\0",
        "a number": lambda data: data.replace(b"d_model: 16", b"d_model: 15"),
    },
    "merges": ANY_FILE
    | {
        "one less": lambda data: data.rstrip().rpartition(b"\n")[0],
        "one twice": lambda data: data + data.rstrip().rpartition(b"\n")[2],
        "three words": lambda data: data + b"no merge at all\n",
        "no byte": lambda data: data + "\u2603 x\n".encode(),
        "reversed": lambda data: b"\n".join(reversed(data.split(b"\n"))),
    },
    "npz": ANY_FILE | {"a byte changed": lambda data: data[:90] + bytes([data[90] ^ 1]) + data[91:]},
    "csv": ANY_FILE
    | {
        "words": lambda data: data.replace(b"0", b"none"),
        "only a header": lambda data: data.split(b"\n")[0] + b"\n",
        "nul bytes": lambda data: data.replace(b",", b"\0"),
        "no UTF-8": lambda data: data.replace(b",", b"\xff,", 20),
    },
    "weights": ANY_FILE,
    "tokens": ANY_FILE | {"an odd byte": lambda data: data + b"\0", "large ids": lambda data: b"\xff\xff" + data[2:]},
}
