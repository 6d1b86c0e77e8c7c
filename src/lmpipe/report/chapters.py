"""Chapters of the report, and the problems of each card, in the order of a reader."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from lmpipe.study.problems import PROBLEMS

# Problems that share a card with others; the first one names it.
CARDS = {
    "training": (("learning_rate",), ("batch_size_experiment",), ("main_experiment",), ("generate",)),
    "ablations": (("layer_norm_ablation",), ("pre_norm_ablation",), ("no_pos_emb",), ("swiglu_ablation",)),
    "costs": (("transformer_accounting",), ("adamw_accounting",)),
    "tokenizers": (
        ("train_bpe_tinystories", "train_bpe_expts_owt"),
        ("tokenizer_experiments",),
        ("unicode1", "unicode2"),
    ),
    "warm_up": (("learning_rate_tuning",),),
}
TITLES = {
    "training": "Training",
    "ablations": "Ablations",
    "costs": "Costs",
    "tokenizers": "Tokenizers",
    "warm_up": "Warm-up",
    "other": "Other experiments",
}


@dataclass(frozen=True)
class ChapterPlan:
    """A chapter with the problems or experiments of each of its cards."""

    id: str
    title: str
    cards: tuple[tuple[str, ...], ...]


def plan_chapters(names: Collection[str], others_first: bool) -> Iterator[ChapterPlan]:
    """Yield the chapters that the named findings fill; experiments of no problem are a chapter of their own."""
    others = tuple((name,) for name in names if name not in PROBLEMS)
    chapters = {**({"other": others} if others_first else {}), **CARDS, "other": others}
    for chapter, cards in chapters.items():
        filled = tuple(card for members in cards if (card := tuple(name for name in members if name in names)))
        if filled:
            yield ChapterPlan(chapter, TITLES[chapter], filled)
