"""Random harm to texts, bytes and plain values, from hand-picked nasty pieces; all of it follows from a `Random`."""

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

from benchmarks.pieces import NAMES, NUMBER_TEXTS, NUMBERS, OTHERS, TEXTS, YAML_PIECES


def any_value(random: Random) -> Any:
    """A nasty value of any kind; every now and then a deep one, or one with another inside."""
    pool = random.choice([NAMES, TEXTS, NUMBERS, NUMBERS, NUMBER_TEXTS, OTHERS])
    value = copy.deepcopy(random.choice(pool))
    match random.randrange(12):
        case 0:
            for _ in range(random.choice([2, 20, 60])):
                value = [value] if random.random() < 0.5 else {"a": value}
        case 1:
            value = [value, any_value(random)]
    return value


def harm_text(random: Random, text: str) -> bytes:
    """A text of YAML with one to four things done to it, as bytes."""
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        text = random.choice([harm_line, harm_line, insert_piece, replace_value])(random, text)
    text = random.choice(
        [text] * 10 + [text.replace("\n", "\r\n"), text.replace("  ", "\t"), "\ufeff" + text, text.upper()]
    )
    data = text.encode("utf-8", "surrogatepass")
    return harm_bytes(random, data) if random.random() < 0.25 else data


def insert_piece(random: Random, text: str) -> str:
    """Put a piece of YAML anywhere, or at the start of a line."""
    place = random.randint(0, len(text))
    if random.random() < 0.5:
        place = text.rfind("\n", 0, place) + 1
    return text[:place] + random.choice(YAML_PIECES) + text[place:]


def replace_value(random: Random, text: str) -> str:
    """Put a piece of YAML in the place of what follows a key."""
    lines = text.split("\n")
    chosen = random.randrange(len(lines))
    key, colon, _ = lines[chosen].partition(": ")
    lines[chosen] = key + (colon or ": ") + random.choice(YAML_PIECES)
    return "\n".join(lines)


def harm_line(random: Random, text: str) -> str:
    """Drop, double, move or indent a line."""
    lines = text.split("\n")
    chosen = random.randrange(len(lines))
    match random.randrange(5):
        case 0:
            del lines[chosen]
        case 1:
            lines.insert(random.randint(0, len(lines)), lines[chosen])
        case 2:
            lines.insert(random.randint(0, len(lines) - 1), lines.pop(chosen))
        case 3:
            lines[chosen] = random.choice([" ", "\t", "    ", "- "]) + lines[chosen]
        case 4:
            lines[chosen] = lines[chosen].lstrip()
    return "\n".join(lines)


def harm_bytes(random: Random, data: bytes) -> bytes:
    """Bytes with one to eight of them, or stretches of them, changed."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        place = random.randint(0, len(changed))
        stop = place + random.choice([1, 1, 2, 8, 100, 10_000])
        match random.randrange(5):
            case 0 if place < len(changed):
                changed[place] ^= 1 << random.randrange(8)
            case 1:
                del changed[place:stop]
            case 2:
                changed[place:place] = changed[place:stop]
            case 3:
                changed[place:place] = random.choice([b"\0", b"\xff", b"\xff" * 8, b"\0" * 8, random.randbytes(20)])
            case 4:
                del changed[place if random.random() < 0.3 else len(changed) - 1 :]
    return bytes(changed)


Place = tuple[Any, Any]


def places(value: Any) -> list[Place]:
    """Every place inside a value of dicts and lists: the container, and the key or index in it."""
    found: list[Place] = []
    waiting = [value]
    while waiting:
        block = waiting.pop()
        if isinstance(block, dict | list):
            entries = block.items() if isinstance(block, dict) else enumerate(block)
            found += [(block, key) for key, _ in entries]
            waiting += [part for _, part in entries]
    return found


def harm_value(random: Random, value: Any, pieces: Sequence[Any] = ()) -> Any:
    """A copy of a value of dicts and lists with one to three things done to it; `pieces` may come in, too."""
    value = copy.deepcopy(value)
    for _ in range(random.choice([1, 1, 2, 3])):
        if not (found := places(value)):
            return any_value(random)
        block, key = random.choice(found)
        match random.randrange(8):
            case 0:
                del block[key]
            case 1 | 2 if isinstance(block, dict):
                block[random.choice(NAMES)] = block.pop(key)
            case 3 if isinstance(block, dict):
                block[random.choice(NAMES)] = copy.deepcopy(block[key])
            case 4:
                other, other_key = random.choice(found)
                block[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(block[key])
            case 5 if pieces:
                block[key] = copy.deepcopy(random.choice(pieces))
            case _:
                block[key] = any_value(random)
    return value
