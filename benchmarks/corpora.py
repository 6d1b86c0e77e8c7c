"""Corpora of any size for the benchmarks: python -m benchmarks.corpora stories|web --megabytes N --output FILE.

`stories` are lmpipe's own. `web` repeats a real text (--text), such as a sample of the web, in another order of its
documents each time, and lets its rare words become others, so that the count of unique pre-tokens goes on growing as it
does in longer and longer samples (by a factor of about 4 for ten times the text).
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

from lmpipe.data.sources.stories import stories
from lmpipe.io.files import atomic_write

END_OF_TEXT = "<|endoftext|>"
WORD = re.compile(r"[A-Za-z]{4,}")
RARE = 2  # words that occur up to so many times in the sample are rare
CHANGED_SHARE = 0.55  # of the rare words, in each repetition
LETTERS = ("aeiou", "bcdfghjklmnpqrstvwxyz")


def tell_stories() -> Iterator[str]:
    """Stories without end."""
    for seed in count():
        yield from stories(1_000_000, seed)


def repeat(text: str) -> Iterator[str]:
    """Yield the documents of a text without end, each time in another order and with other rare words."""
    documents = [document for document in text.split(END_OF_TEXT) if document.strip()]
    rare = {word for word, times in Counter(WORD.findall(text)).items() if times <= RARE}
    yield from documents
    for seed in count(1):
        chance = random.Random(seed)
        shuffled = chance.sample(documents, len(documents))
        changed = {word: respelled(word, chance) for word in sorted(rare) if chance.random() < CHANGED_SHARE}
        for document in shuffled:
            yield WORD.sub(partial(replacement, changed), document)


def replacement(changed: dict[str, str], match: re.Match[str]) -> str:
    """Return the word that stands for a matched one."""
    return changed.get(match.group(), match.group())


def respelled(word: str, chance: random.Random) -> str:
    """Another word that looks like one: two of its letters become others of their kind."""
    letters = list(word)
    for place in chance.sample(range(len(letters)), 2):
        for kind in LETTERS:
            if letters[place].lower() in kind:
                new = chance.choice(kind)
                letters[place] = new.upper() if letters[place].isupper() else new
    return "".join(letters)


def main() -> None:
    """Write a corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["stories", "web"])
    parser.add_argument("--megabytes", type=int, required=True, help="the least size")
    parser.add_argument("--output", required=True)
    parser.add_argument("--text", help="web: the text that is repeated")
    given = parser.parse_args()
    if given.kind == "web" and not given.text:
        parser.error("--text: expected a text to repeat, found none")
    documents = tell_stories() if given.kind == "stories" else repeat(Path(given.text).read_text(encoding="utf-8"))
    size = 0
    with atomic_write(given.output, "wb") as file:
        while size < given.megabytes * 1_000_000:
            size += file.write(f"{next(documents).strip()}\n{END_OF_TEXT}\n".encode())


if __name__ == "__main__":
    main()
