"""Corpora of any size for the benchmarks: python -m benchmarks.corpora stories|web --megabytes N --output FILE.

`stories` come from the grammar of lmpipe. `web` repeats a real text (--text), such as a web sample, each time with its
documents in another order and some rare words respelled: the number of unique pre-tokens grows as in longer samples (by
a factor of about 4 for ten times the text).
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

from lmpipe.data.sources.stories import stories
from lmpipe.io.files import atomic_write

END_OF_TEXT = "<|endoftext|>"
WORD = re.compile(r"[A-Za-z]{4,}")
MAX_RARE = 2  # occurrences of a rare word
RESPELLED_SHARE = 0.55  # of the rare words, in each repetition
LETTERS = ("aeiou", "bcdfghjklmnpqrstvwxyz")


def repeat(text: str) -> Iterator[str]:
    """Yield the documents of a text without end, each time in another order and with other rare words."""
    documents = [document for document in text.split(END_OF_TEXT) if document.strip()]
    rare = {word for word, times in Counter(WORD.findall(text)).items() if times <= MAX_RARE}
    yield from documents
    for seed in count(1):
        rng = random.Random(seed)
        shuffled = rng.sample(documents, len(documents))
        changed = {word: respelled(word, rng) for word in sorted(rare) if rng.random() < RESPELLED_SHARE}
        for document in shuffled:
            yield WORD.sub(lambda match, changed=changed: changed.get(match.group(), match.group()), document)


def respelled(word: str, rng: random.Random) -> str:
    """Return a word with two letters replaced, vowels by vowels and consonants by consonants."""
    letters = list(word)
    for index in rng.sample(range(len(letters)), 2):
        for kind in LETTERS:
            if letters[index].lower() in kind:
                new = rng.choice(kind)
                letters[index] = new.upper() if letters[index].isupper() else new
    return "".join(letters)


def main() -> None:
    """Write a corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["stories", "web"])
    parser.add_argument("--megabytes", type=int, required=True, help="minimum size")
    parser.add_argument("--output", required=True)
    parser.add_argument("--text", help="web: file of the text to repeat")
    args = parser.parse_args()
    if args.kind == "web" and not args.text:
        parser.error("web needs --text, a text to repeat")
    if args.kind == "stories":
        documents = chain.from_iterable(stories(1_000_000, seed) for seed in count())
    else:
        documents = repeat(Path(args.text).read_text(encoding="utf-8"))
    size = 0
    with atomic_write(args.output, "wb") as file:
        while size < args.megabytes * 1_000_000:
            size += file.write(f"{next(documents).strip()}\n{END_OF_TEXT}\n".encode())


if __name__ == "__main__":
    main()
