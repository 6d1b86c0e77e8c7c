"""Random damage to texts, bytes and JSON values, from a list of naughty values; everything follows from a `Random`."""

import copy
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any


def expand(value: Any) -> Any:
    """Write out a long text that naughty.json stores as {"repeat": piece, "times": n}."""
    return value["repeat"] * value["times"] if isinstance(value, dict) and "repeat" in value else value


# Names, texts, numbers as texts, pieces of YAML, file names and addresses that have broken some program.
NAUGHTY: dict[str, list[Any]] = json.loads(Path(__file__).with_name("naughty.json").read_text(encoding="utf-8"))
NAUGHTY = {kind: [expand(value) for value in values] for kind, values in NAUGHTY.items()}
NUMBERS = [0, 1, -1, 2, 3, 7, 63, *(2**power + step for power in (8, 16, 31, 32, 53, 63, 64) for step in (-1, 0, 1))]
NUMBERS += [float("nan"), float("inf"), float("-inf"), True, False]
OTHERS = [
    *(None, [], {}, [[]], [{}], {"a": {}}, [None], [0, 0], [1, "1"], {"": ""}, {"a": [1, 2]}, {"seed": [1]}),
    *({1: 2}, {None: None}, {True: 1}, {1.5: 1}, (1, 2), b"bytes", {1, 2}, datetime.date(2001, 1, 1)),
    *(["a"] * 1000, list(range(3000)), {str(number): number for number in range(2000)}),
    *({"best_of": "learning_rate"}, {"best_of": "x", "factor": [1, 2]}),
    {"max_lr": {"best_of": "learning_rate", "scale": "sqrt_batch_size", "factor": [1, 2]}},
    *({"max_lr": [1e-3, "1e-3"]}, {"corpus": ["stories"]}, {"vocab_size": [300, 400, 2**31]}),
    {key: list(range(1, 1000)) for key in ("max_lr", "eps", "d_ff")},
    {"betas": [[0.9, 0.95], [0, 0]], "norm": ["pre", "none"], "precision": ["bfloat16"]},
]


def random_value(random: Random) -> Any:
    """Return a naughty value; sometimes deeply nested, or with another one beside it."""
    pool = random.choice([NAUGHTY["names"], NAUGHTY["texts"], NUMBERS, NUMBERS, NAUGHTY["number_texts"], OTHERS])
    value = copy.deepcopy(random.choice(pool))
    match random.randrange(12):
        case 0:
            for _ in range(random.choice([2, 20, 60])):
                value = [value] if random.random() < 0.5 else {"a": value}
        case 1:
            value = [value, random_value(random)]
    return value


def mutate_yaml(random: Random, text: str) -> bytes:
    """YAML with one to four changes: a line moved, doubled, dropped or indented, a piece inserted, a value replaced."""
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        lines = text.split("\n")
        row = random.randrange(len(lines))
        piece = random.choice(NAUGHTY["yaml"])
        match random.randrange(8):
            case 0:
                del lines[row]
            case 1:
                lines.insert(random.randint(0, len(lines)), lines[row])
            case 2:
                lines.insert(random.randint(0, len(lines) - 1), lines.pop(row))
            case 3:
                lines[row] = random.choice([" ", "\t", "    ", "- "]) + lines[row]
            case 4:
                lines[row] = lines[row].lstrip()
            case 5:
                column = random.choice([0, random.randint(0, len(lines[row]))])
                lines[row] = lines[row][:column] + piece + lines[row][column:]
            case _:
                lines[row] = lines[row].partition(": ")[0] + ": " + piece
        text = "\n".join(lines)
    variants = [text.replace("\n", "\r\n"), text.replace("  ", "\t"), "\ufeff" + text, text.upper()]
    data = random.choice([text] * 10 + variants).encode("utf-8", "surrogatepass")
    return mutate_bytes(random, data) if random.random() < 0.25 else data


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Bytes with one to eight changes: bits flipped, ranges deleted, doubled or overwritten, the end cut off."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        start = random.randint(0, len(changed))
        stop = start + random.choice([1, 1, 2, 8, 100, 10_000])
        match random.randrange(5):
            case 0 if start < len(changed):
                changed[start] ^= 1 << random.randrange(8)
            case 1:
                del changed[start:stop]
            case 2:
                changed[start:start] = changed[start:stop]
            case 3:
                changed[start:start] = random.choice([b"\0", b"\xff", b"\xff" * 8, b"\0" * 8, random.randbytes(20)])
            case _:
                del changed[start if random.random() < 0.3 else len(changed) - 1 :]
    return bytes(changed)


def slots(value: Any) -> list[tuple[Any, Any]]:
    """Return every slot inside nested dicts and lists: the container, and the key or index in it."""
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [*((value, key) for key, _ in entries), *(slot for _, child in entries for slot in slots(child))]


def mutate_value(random: Random, value: Any, pieces: Sequence[Any] = ()) -> Any:
    """Return a copy of nested dicts and lists with one to three changes; `pieces` may be put in, too."""
    value = copy.deepcopy(value)
    for _ in range(random.choice([1, 1, 2, 3])):
        if not (candidates := slots(value)):
            return random_value(random)
        block, key = random.choice(candidates)
        match random.randrange(8):
            case 0:
                del block[key]
            case 1 | 2 if isinstance(block, dict):
                block[random.choice(NAUGHTY["names"])] = block.pop(key)
            case 3 if isinstance(block, dict):
                block[random.choice(NAUGHTY["names"])] = copy.deepcopy(block[key])
            case 4:
                other, other_key = random.choice(candidates)
                block[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(block[key])
            case 5 if pieces:
                block[key] = copy.deepcopy(random.choice(pieces))
            case _:
                block[key] = random_value(random)
    return value
