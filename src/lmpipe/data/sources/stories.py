"""Children's stories from a seeded grammar: a corpus of any size that needs no download.

A story takes a plot, an opening, a subplot, asides and a closing from `lmpipe.data.sources.story_grammar` and fills
their fields. Random numbers come from `random.Random.random` alone, the one method whose sequence Python keeps for a
seed across machines and versions (`choice` and `shuffle` make no such promise).
"""

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from lmpipe.data.sources.story_grammar import Group, Plot, Subplot, Symbol, Template, groups, parse, plots, subplots

# Probabilities: a young animal as the hero, a friend of the hero's gender, and so on.
ANIMAL_SHARE = 0.3
SAME_GENDER_SHARE = 0.4
SUBPLOT_SHARE = 0.5
MORAL_SHARE = 0.3
CLOSING_SHARE = 0.7
THE_END_SHARE = 0.1
ONE_PARAGRAPH_SHARE = 0.25
PARAGRAPH_SHARE = 0.7

# Both scan the whole corpus, so each starts with literals that the regex engine finds quickly.
SENTENCE_START = re.compile(r'[.!?,:]"? (?:"|(?<=[.!?] )|(?<=[.]" ))[a-z]')
VOWEL_AHEAD = re.compile(r"a (?<![a-z]a )(?=[aei]|o(?!ne)|u(?!ni|se)|hour|honest)", re.IGNORECASE)

CHILD = {"he": "boy", "she": "girl"}
PRONOUNS = {"he": ("he", "him", "his", "himself"), "she": ("she", "her", "her", "herself")}


class Character(NamedTuple):
    """A person or animal in a story: the introduction, the name used after it, and the gender ("he" or "she")."""

    first: str
    name: str
    gender: str


@dataclass(frozen=True)
class Story:
    """A finished story: text, name of the plot, characters by role, values bound to fields (templates if unused)."""

    text: str
    plot: str
    characters: Mapping[str, Character]
    choices: Mapping[str, str | Template | Character]


def stories(documents: int, seed: int = 0) -> Iterator[str]:
    """Yield `documents` different stories; story i depends only on the seed and the stories before it."""
    # 64-bit hashes, about 100 bytes a story; two of a million stories collide with probability 3e-8.
    seen: set[bytes] = set()
    for index in range(documents):
        for attempt in count():
            text = generate_story(seed, index, attempt).text
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            if digest not in seen:
                seen.add(digest)
                yield text
                break


def generate_story(seed: int, index: int, attempt: int = 0) -> Story:
    """Generate story `index`; another attempt gives another story for the same index."""
    rng = random.Random(f"{seed}/{index}/{attempt}").random
    is_animal = rng() < ANIMAL_SHARE
    context = StoryContext(rng, groups(is_animal))
    characters = choose_characters(context, is_animal)
    name = context.choice(tuple(plots()))
    plot = plots()[name]
    if plot.knows_friend:
        context.bind(friend=characters["friend"].name)
    choose_subplot(context, is_animal)
    text = fix_capitalization(paragraphs(context, story_beats(context, plot)))
    return Story(text, name, characters, context.bound)


@dataclass
class StoryContext:
    """State of one story: its random numbers, bound fields and used entries.

    A bound field is its text, a template that was not needed yet, or a character who was not introduced yet. `used`
    holds the row numbers already drawn from each group.
    """

    rng: Callable[[], float]
    groups: Mapping[str, Group]
    bound: dict[str, str | Template | Character] = field(default_factory=dict)
    used: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def write(self, template: Template) -> str:
        """Fill in a template."""
        out: list[str] = []
        self.fill(template, out)
        return "".join(out)

    def fill(self, template: Template, out: list[str]) -> None:
        """Append the pieces of a filled-in template to `out`."""
        for piece in template:
            kind = type(piece)
            if kind is str:
                out.append(piece)
            elif kind is Symbol:
                out.append(capitalize(self.value(piece)) if piece.capital else self.value(piece))
            else:
                self.fill(piece[int(self.rng() * len(piece))], out)

    def value(self, symbol: Symbol) -> str:
        """Return the text of a field: its bound value, drawn at the first use, or a new entry of its list."""
        key = symbol.key
        value = self.bound.get(key)
        if type(value) is str:  # nearly always
            return value
        if value is None:
            group = self.groups[symbol.group]
            row = self.draw_row(symbol.group, group)
            if not (group.bound or symbol.tag):
                return row[0] if type(row[0]) is str else self.write(row[0])
            for column, cell in zip(group.columns, row, strict=True):
                self.bound[f"{symbol.group}{column}{symbol.tag}"] = cell
            value = self.bound[key]
        if type(value) is Character:
            self.bound[key] = value.name
            return value.first
        if type(value) is not str:
            value = self.bound[key] = self.write(value)
        return value

    def draw_row(self, name: str, group: Group) -> tuple[Template, ...]:
        """Draw a row of a group that this story has not used yet; any row once all have been used."""
        rows, used = group.rows, self.used[name]
        if len(used) == len(rows):
            used.clear()
        number = self.rng()
        index = int(len(rows) * (number * number if group.common_first else number))
        while index in used:
            index = (index + 1) % len(rows)
        used.add(index)
        return rows[index]

    def bind(self, **values: str) -> None:
        """Bind fields to texts; two underscores in a name mean a dot."""
        self.bound.update((key.replace("__", "."), value) for key, value in values.items())

    def text(self, template: str) -> str:
        """Compile and fill in a template."""
        return self.write(parse(template))

    def choice(self, options: Sequence[Any]) -> Any:
        """Draw one of the options, each with the same probability."""
        return options[int(self.rng() * len(options))]


def choose_characters(context: StoryContext, is_animal: bool) -> dict[str, Character]:
    """Choose the characters of a story and bind their names and pronouns; return them by role."""
    hero = choose_hero(context, is_animal)
    characters = {
        "hero": hero,
        "friend": choose_friend(context, is_animal, hero.gender),
        "adult": Character(*(context.text(f"{{adult.{column}}}") for column in ("first", "called", "gender"))),
        "helper": choose_helper(context, is_animal),
    }
    for role in ("friend", "adult", "helper"):
        bind_role(context, role, characters[role], hero.gender)
    return characters


def choose_hero(context: StoryContext, is_animal: bool) -> Character:
    """Choose the hero, a child or a young animal, with a home."""
    gender = context.choice(("he", "she"))
    he, him, his, himself = PRONOUNS[gender]
    context.bind(he=he, him=him, his=his, himself=himself)
    if is_animal:
        context.bind(
            hero=context.text("{nickname}"), kind=context.text("{home.kind}"), hand=context.text("{home.hand}")
        )
    else:
        child = CHILD[gender]
        context.bind(hero=context.text(f"{{{child}}}"), kind=child, hand="hand")
    return Character(context.bound["hero"], context.bound["hero"], gender)


def choose_friend(context: StoryContext, is_animal: bool, hero_gender: str) -> Character:
    """Choose the hero's friend, of the other gender a little more often."""
    same = context.rng() < SAME_GENDER_SHARE
    gender = hero_gender if same else {"he": "she", "she": "he"}[hero_gender]
    if is_animal:
        context.bind(friend=context.text("{nickname}"), friend__kind=context.text("{home.kind@friend}"))
        first = context.text(
            "[{his} friend {friend} the {friend.kind}|{friend} the {friend.kind}|{his} best friend {friend}]"
        )
    else:
        context.bind(friend=context.text(f"{{{CHILD[gender]}}}"), friend__kind=CHILD[gender])
        first = context.text("{his} [friend|best friend|cousin|classmate|good friend] {friend}")
    return Character(first, context.bound["friend"], gender)


def choose_helper(context: StoryContext, is_animal: bool) -> Character:
    """Choose somebody from outside the family who knows what to do."""
    gender = context.choice(("he", "she"))
    if is_animal:
        return Character(context.text("a {kindly} {wise@helper}"), context.text("the {wise@helper}"), gender)
    context.bind(title={"he": "Mr.", "she": "Mrs."}[gender])
    first = context.text("a {kindly} {job@helper} named {title} {surname@helper}")
    return Character(first, context.text("[the {job@helper}|{title} {surname@helper}]"), gender)


def bind_role(context: StoryContext, role: str, character: Character, hero_gender: str) -> None:
    """Bind a character's name and pronouns; a pronoun that could be mistaken for the hero's becomes the name."""
    he, him, his, himself = PRONOUNS[character.gender]
    whose = f"{character.name}'s"
    names = {".name": character.name, ".whose": whose, ".own": his, ".himself": himself}
    if character.gender == hero_gender:
        names |= {".he": character.name, ".him": character.name, ".his": whose}
    else:
        names |= {".he": he, ".him": him, ".his": his}
    context.bound.update((role + suffix, text) for suffix, text in names.items())
    context.bound[role] = character


def choose_subplot(context: StoryContext, is_animal: bool) -> None:
    """Bind the three parts of a subplot, or three empty templates."""
    subplot = context.choice(subplots(is_animal)) if context.rng() < SUBPLOT_SHARE else Subplot(((),), ((),), ((),))
    for name, options in subplot._asdict().items():
        context.bound[name] = context.choice(options)


def story_beats(context: StoryContext, plot: Plot) -> Iterator[Template | None]:
    """Yield the beats of a story in order, and None at possible paragraph breaks."""
    yield parse("{opening}")
    yield parse("{start}")
    brevity = context.rng()
    for options in plot.beats:
        leave_out = options and () in options and context.rng() < brevity
        yield options and (() if leave_out else context.choice(options))
    if context.bound["end"]:
        yield parse("{end}")
    elif context.rng() < CLOSING_SHARE:
        yield parse("{closing}")
    if context.rng() < MORAL_SHARE:
        yield context.choice(plot.morals)
    if context.rng() < THE_END_SHARE:
        yield parse("the end.")


def paragraphs(context: StoryContext, beats: Iterator[Template | None]) -> str:
    """Fill in the beats and join them, in one paragraph or in several."""
    break_share = 0.0 if context.rng() < ONE_PARAGRAPH_SHARE else PARAGRAPH_SHARE
    text, gap = "", ""
    for beat in beats:
        if beat is None:
            gap = "\n" if context.rng() < break_share else gap
        elif sentence := context.write(beat).strip():
            text += gap + capitalize(sentence)
            gap = " "
    return text


def fix_capitalization(text: str) -> str:
    """Capitalize the starts of sentences and quotes, and turn "a" before a vowel into "an".

    >>> fix_capitalization('Mia said, "oh, a owl!" it was a one-eared owl. it saw her.')
    'Mia said, "Oh, an owl!" it was a one-eared owl. It saw her.'
    """
    text = VOWEL_AHEAD.sub(lambda match: f"{match[0][0]}n ", text)
    return SENTENCE_START.sub(lambda match: match[0].upper(), text)


def capitalize(text: str) -> str:
    """Capitalize the first letter of a text, after an opening quote if there is one.

    >>> capitalize('"oh," said Mia.')
    '"Oh," said Mia.'
    """
    start = 1 if text[0] == '"' else 0
    return text[:start] + text[start].upper() + text[start + 1 :]
