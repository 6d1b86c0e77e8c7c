"""Linter of the report's prose: `python -m tests.support.prose_lint results/smoke` reads every rendered block.

Its limits are those of a text that is read at full speed: short sentences, few numbers, three significant digits.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lmpipe.analysis.finding import Finding, Findings
from lmpipe.planning.session import read_study
from lmpipe.report.prose import Prose, shared_names
from tests.support.prose import FIGURE_BLOCKS, render

MAX_WORDS, MAX_MEAN_WORDS, MAX_NUMBERS, MAX_DIGITS = 35, 20.0, 3, 3
# Sentences of at most these words are a status, such as "Divergence, as expected.", and may be repeated.
MAX_STATUS_WORDS = 6
# Integers below this are exact counts, years or names, which need all their digits.
EXACT_BELOW = 10_000


# Limits of each block: sentences, and words of each.
LIMITS = {
    "question": (1, 12),
    "answer": (1, 30),
    "details": (3, MAX_WORDS),
    "caveat": (2, MAX_WORDS),
    "outcome": (2, 25),
    "finding": (1, 25),
    "warning": (1, 25),
    "title": (1, 20),
    "subtitle": (1, 20),
    "alt": (4, MAX_WORDS),
}
NUMBER = re.compile(r"(?<![\w.-])[+−-]?\d[\d,]*(?:\.\d+)?(?![\w])")
# "2 of 5", "4.5 × 10¹²" and "1 h 22 min" are one number each; "95 % interval" is a term.
ONE_NUMBER = (
    (re.compile(r"95 % (?=interval|\(|CI)"), ""),
    (re.compile(r"(\d) of (?:the )?\d[\d,]*"), r"\1"),
    (re.compile(r" × 10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+"), ""),
    (re.compile(r"(\d+ (?:h|min|days?)) \d+ (?:h|min|s)\b"), r"\1"),
)
SNAKE_CASE = re.compile(r"\b[a-zA-Z0-9]+_[a-zA-Z0-9_]+\b")
VERBS = "is|are|was|were|has|have|had|can|cannot|could|does|do|did|means|makes|shows|takes|gives|needs|costs|holds|will"
ORPHAN_PRONOUN = re.compile(rf"^(?:(?:They|It|Its|Their|Them)\b|(?:This|These|That|Those) (?:{VERBS})\b)")


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a block.

    >>> sentences_of("At 0.01 it is **3.32**. The others fail.")
    ['At 0.01 it is 3.32.', 'The others fail.']
    """
    plain = text.replace("**", "").strip()
    return [part for part in re.split(r"(?<=[.?!])\s+(?=[A-Z0-9`+−\"“])", plain) if part]


def without_code(sentence: str) -> str:
    """Return a sentence whose code spans are one word each."""
    return re.sub(r"(`+)[^`]+?\1", "code", sentence)


def count_words(sentence: str) -> int:
    """Return the number of words; a sign or a dash alone is none.

    >>> count_words("+0.14 nats – 7 % of the loss")
    6
    """
    return sum(any(character.isalnum() for character in word) for word in without_code(sentence).split())


def numbers_in(sentence: str) -> list[str]:
    """Return the numbers of a sentence.

    >>> numbers_in("In 2 of 5 seeds GPT-2 costs 4.51 × 10¹² FLOPs, 1 h 22 min or `x=3`.")
    ['2', '4.51', '1']
    """
    text = without_code(sentence)
    for pattern, replacement in ONE_NUMBER:
        text = pattern.sub(replacement, text)
    return NUMBER.findall(text)


def significant_digits(number: str) -> int:
    """Return the significant digits of a number; trailing zeros of an integer do not count.

    >>> [significant_digits(number) for number in ("0.0140", "345,000", "3.325")]
    [3, 3, 4]
    """
    digits = number.lstrip("+−-").replace(",", "")
    digits = digits.replace(".", "") if "." in digits else digits.rstrip("0")
    return len(digits.lstrip("0"))


def sentence_faults(sentence: str) -> Iterator[str]:
    """Yield the faults of one sentence."""
    if (words := count_words(sentence)) > MAX_WORDS:
        yield f"{words} words"
    numbers = numbers_in(sentence)
    if len(numbers) > MAX_NUMBERS:
        yield f"{len(numbers)} numbers"
    for number in numbers:
        is_exact = "." not in number and int(re.sub(r"\D", "", number)) < EXACT_BELOW
        if not is_exact and significant_digits(number) > MAX_DIGITS:
            yield f"{number} has more than {MAX_DIGITS} significant digits"
    if name := SNAKE_CASE.search(without_code(sentence)):
        yield f"{name[0]} is a raw name"
    if pronoun := ORPHAN_PRONOUN.match(sentence):
        yield f"{pronoun[0]!r} has no noun"


def block_faults(name: str, text: str) -> Iterator[str]:
    """Yield the faults of one block as pairs of sentence and fault."""
    kind = name if name in LIMITS else name.rpartition("_")[2]
    (max_sentences, max_words), sentences = LIMITS[kind], sentences_of(text)
    if len(sentences) > max_sentences:
        yield f"{len(sentences)} sentences"
    if kind == "question" and text and not text.endswith("?"):
        yield "does not end with a question mark"
    for sentence in sentences:
        faults = list(sentence_faults(sentence))
        if max_words < (words := count_words(sentence)) <= MAX_WORDS:
            faults.append(f"{words} words, at most {max_words}")
        yield from (f"{fault}: {sentence}" for fault in faults)


def rendered_blocks(problem: str, finding: Finding, shared: Mapping[str, Any]) -> dict[str, str]:
    """Return the blocks of a finding that the page prints."""
    if finding.status == "missing":
        return {"question": Prose(problem, finding, shared).block("question")}
    return render(problem, finding, shared)


def page_faults(blocks: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the faults of all blocks of a page, by problem and block."""
    faults, seen, lengths = [], {}, []
    for (problem, name), text in blocks.items():
        where = f"{problem}, {name}"
        faults += [f"{where}: {fault}" for fault in block_faults(name, text)]
        is_of_figure = name.rpartition("_")[2] in FIGURE_BLOCKS
        if not text and (name in ("question", "answer") or is_of_figure):
            faults.append(f"{where}: empty")
        for sentence in [] if is_of_figure else sentences_of(text):
            lengths.append(count_words(sentence))
            if sentence in seen and count_words(sentence) > MAX_STATUS_WORDS:
                faults.append(f"{where}: repeats a sentence of {seen[sentence]}: {sentence}")
            seen[sentence] = where
    if len(lengths) > 1 and (mean := sum(lengths) / len(lengths)) > MAX_MEAN_WORDS:
        faults.append(f"{mean:.1f} words a sentence on average")
    return faults


def lint(problems: Mapping[str, Finding], shared: Mapping[str, Any]) -> list[str]:
    """Return the faults of the prose of all findings."""
    rendered = {problem: rendered_blocks(problem, finding, shared) for problem, finding in problems.items()}
    return page_faults({(problem, name): text for problem, blocks in rendered.items() for name, text in blocks.items()})


def main(folders: Iterable[str]) -> int:
    """Print the faults of studies with findings.json and study.yaml; return 1 if there are some."""
    faults = []
    for folder in map(Path, folders):
        plan, paths = read_study(folder)
        faults += lint(Findings.read(paths.findings).problems, shared_names(plan.study))
    print("\n".join(faults) or "no faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
