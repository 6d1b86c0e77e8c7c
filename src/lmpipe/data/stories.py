"""A seeded grammar of simple children's stories: a corpus of any size that needs no download.

A story takes a plot of `story_plots`, an opening, asides and a closing of `story_phrases` and the words of
`story_words`, all written in one small template language:

    [a|b|]        one of the alternatives, drawn anew each time
    {happy}       an entry of the list or phrase `happy`, drawn anew, none twice before all have been used
    {color@kite}  an entry of the list `color`, drawn at its first use and the same for the rest of the story
    {thing.use}   a column of the table `thing`; its row is drawn once, so that all its columns fit together
    {friend.him}  what the story has bound before it begins: the people in it and their pronouns
    {He}          the same as {he} with a capital letter; sentence starts get theirs by themselves, as does "an"

Chance comes from `random.Random.random` alone, whose stream Python keeps the same for a seed text on every machine
and version (`choice` and `shuffle` carry no such promise).
"""

import hashlib
import inspect
import random
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count, groupby
from typing import NamedTuple

from lmpipe.data.story_phrases import CHILD_THREADS, PHRASES, THREADS
from lmpipe.data.story_plots import FRIEND_KNOWN, MORALS, PLOTS
from lmpipe.data.story_words import KINDS, LISTS, TABLES, WILD_ADULTS, WILD_PLACES

Parts = tuple  # of str (literal text), Symbol (a field) and list[Parts] (alternatives)

# How often stories have a young animal as hero, a friend of the hero's gender, and so on.
ANIMAL_SHARE = 0.3
SAME_GENDER_SHARE = 0.4
THREAD_SHARE = 0.5
MORAL_SHARE = 0.3
CLOSING_SHARE = 0.7
THE_END_SHARE = 0.1
ONE_PARAGRAPH_SHARE = 0.25
PARAGRAPH_SHARE = 0.7

FILTER_BYTES = 1 << 26

TOKEN = re.compile(r"\{([^{}]+)\}|([\[\]|])|([^\[\]{}|]+)")
LONE_I = re.compile(r"\bi\b")
# These two see every character of the corpus: both begin with what the regex engine can search for quickly.
SENTENCE_START = re.compile(r'[.!?,:]"? (?:"|(?<=[.!?] )|(?<=[.]" ))[a-z]')
VOWEL_AHEAD = re.compile(r"a (?<![a-z]a )(?=[aei]|o(?!ne)|u(?!ni|se)|hour|honest)", re.IGNORECASE)

CHILD = {"he": "boy", "she": "girl"}
PRONOUNS = {"he": ("he", "him", "his", "himself"), "she": ("she", "her", "her", "herself")}


class Symbol(NamedTuple):
    """A field of a template: what it is bound under, the group it is drawn from, and how it is written."""

    key: str
    group: str
    tag: str
    capital: bool


@dataclass(frozen=True)
class Group:
    """What a field is drawn from: the rows of a table, or of a list (one column without a name)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Parts, ...], ...]
    common_first: bool = True
    bound: bool = False


class Person(NamedTuple):
    """Somebody in a story: how they are introduced, what they are called from then on, and their gender."""

    first: str
    name: str
    gender: str


@dataclass(frozen=True)
class Story:
    """A finished story, the plot it tells, its people by role and what was bound in it (unused fields as templates)."""

    text: str
    plot: str
    people: Mapping[str, Person]
    choices: Mapping[str, str | Parts | Person]


def stories(documents: int, seed: int = 0) -> Iterator[str]:
    """Yield `documents` stories, no two alike; story i depends on the seed and the stories before it alone."""
    told = Told()
    for index in range(documents):
        attempts = (tell(seed, index, attempt).text for attempt in count())
        yield next(text for text in attempts if told.is_new(text))


class Told:
    """What has been told, in memory that does not grow with it: a Bloom filter (Bloom 1970).

    It knows every text again. Now and then it takes a new one for known, which is then told in another way: one in
    three million after 3 GB of stories, one in five hundred after 30 GB.
    """

    def __init__(self) -> None:
        self.bits = bytearray(FILTER_BYTES)

    def is_new(self, text: str) -> bool:
        """Remember a text, and say whether it was unknown."""
        is_new = False
        for number in struct.unpack("<4I", hashlib.blake2b(text.encode(), digest_size=16).digest()):
            place, bit = number % FILTER_BYTES, 1 << (number // FILTER_BYTES % 8)
            is_new |= not self.bits[place] & bit
            self.bits[place] |= bit
        return is_new


def tell(seed: int, index: int, attempt: int = 0) -> Story:
    """Tell one story; another attempt is another story for the same place in the corpus."""
    chance = random.Random(f"{seed}/{index}/{attempt}").random
    wild = chance() < ANIMAL_SHARE
    world = World(chance, groups(wild))
    people = cast(world, wild)
    plot = pick(world.chance, tuple(PLOTS))
    if plot in FRIEND_KNOWN:
        world.bind(friend=people["friend"].name)
    begin_thread(world, wild)
    text = polish(paragraphs(world, outline(world, plot)))
    return Story(text, plot, people, world.bound)


@dataclass
class World:
    """The choices of one story: what is bound (text, templates not used yet, people not introduced yet) and used up."""

    chance: Callable[[], float]
    groups: Mapping[str, Group]
    bound: dict[str, str | Parts | Person] = field(default_factory=dict)
    used: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def write(self, parts: Parts) -> str:
        """The text of a template in this world."""
        out: list[str] = []
        self.fill(parts, out)
        return "".join(out)

    def fill(self, parts: Parts, out: list[str]) -> None:
        """Append the text of a template to `out`, piece by piece."""
        for part in parts:
            kind = type(part)
            if kind is str:
                out.append(part)
            elif kind is Symbol:
                out.append(capital(self.value(part)) if part.capital else self.value(part))
            else:
                self.fill(part[int(self.chance() * len(part))], out)

    def value(self, symbol: Symbol) -> str:
        """The text of a field: its bound value, drawn and bound now if need be, or a fresh entry of its list."""
        key = symbol.key
        value = self.bound.get(key)
        if type(value) is str:  # nearly always
            return value
        if value is None:
            group = self.groups[symbol.group]
            row = self.draw(symbol.group, group)
            if not (group.bound or symbol.tag):
                return row[0] if type(row[0]) is str else self.write(row[0])
            for column, cell in zip(group.columns, row, strict=True):
                self.bound[f"{symbol.group}{column}{symbol.tag}"] = cell
            value = self.bound[key]
        if type(value) is Person:
            self.bound[key] = value.name
            return value.first
        if type(value) is not str:
            value = self.bound[key] = self.write(value)
        return value

    def draw(self, name: str, group: Group) -> tuple[Parts, ...]:
        """An entry of a group that this story has not used yet (any, once all have been used)."""
        rows, used = group.rows, self.used[name]
        if len(used) == len(rows):
            used.clear()
        at = self.chance()
        index = int(len(rows) * (at * at if group.common_first else at))
        while index in used:
            index = (index + 1) % len(rows)
        used.add(index)
        return rows[index]

    def bind(self, **values: str) -> None:
        """Set fields before the story begins; two underscores in a name stand for a dot."""
        self.bound.update((key.replace("__", "."), value) for key, value in values.items())

    def text(self, template: str) -> str:
        """The text of a template that is given as a string."""
        return self.write(parse(template))


def cast(world: World, wild: bool) -> dict[str, Person]:
    """Choose the people of a story and bind their names and pronouns; returns them by role."""
    hero = choose_hero(world, wild)
    people = {
        "hero": hero,
        "friend": choose_friend(world, wild, hero.gender),
        "adult": choose_adult(world),
        "helper": choose_helper(world, wild),
    }
    for role in ("friend", "adult", "helper"):
        bind_role(world, role, people[role], hero.gender)
    return people


def choose_hero(world: World, wild: bool) -> Person:
    """The hero, a child or a young animal, with a home."""
    gender = pick(world.chance, ("he", "she"))
    he, him, his, himself = PRONOUNS[gender]
    world.bind(he=he, him=him, his=his, himself=himself)
    if wild:
        world.bind(hero=world.text("{nickname}"), kind=world.text("{home.kind}"), hand=world.text("{home.hand}"))
    else:
        child = CHILD[gender]
        world.bind(hero=world.text(f"{{{child}}}"), kind=child, hand="hand")
    return Person(world.bound["hero"], world.bound["hero"], gender)


def choose_friend(world: World, wild: bool, hero_gender: str) -> Person:
    """The hero's friend, a little more often of the other gender."""
    same = world.chance() < SAME_GENDER_SHARE
    gender = hero_gender if same else {"he": "she", "she": "he"}[hero_gender]
    if wild:
        world.bind(friend=world.text("{nickname}"), friend__kind=world.text("{home.kind@friend}"))
        first = world.text(
            "[{his} friend {friend} the {friend.kind}|{friend} the {friend.kind}|{his} best friend {friend}]"
        )
    else:
        world.bind(friend=world.text(f"{{{CHILD[gender]}}}"), friend__kind=CHILD[gender])
        first = world.text("{his} [friend|best friend|cousin|classmate|good friend] {friend}")
    return Person(first, world.bound["friend"], gender)


def choose_adult(world: World) -> Person:
    """A grown-up (or nearly) of the hero's family."""
    return Person(world.text("{adult.first}"), world.text("{adult.called}"), world.text("{adult.gender}"))


def choose_helper(world: World, wild: bool) -> Person:
    """Somebody from outside the family who knows what to do."""
    gender = pick(world.chance, ("he", "she"))
    if wild:
        return Person(world.text("a {kindly} {wise@helper}"), world.text("the {wise@helper}"), gender)
    world.bind(title={"he": "Mr.", "she": "Mrs."}[gender])
    first = world.text("a {kindly} {job@helper} named {title} {surname@helper}")
    return Person(first, world.text("[the {job@helper}|{title} {surname@helper}]"), gender)


def bind_role(world: World, role: str, person: Person, hero_gender: str) -> None:
    """Bind a person's name and pronouns; a pronoun that could be taken for the hero's becomes the name."""
    he, him, his, himself = PRONOUNS[person.gender]
    whose = f"{person.name}'s"
    names = {".name": person.name, ".whose": whose, ".own": his, ".himself": himself}
    if person.gender == hero_gender:
        names |= {".he": person.name, ".him": person.name, ".his": whose}
    else:
        names |= {".he": he, ".him": him, ".his": his}
    world.bound.update((role + suffix, text) for suffix, text in names.items())
    world.bound[role] = person


def begin_thread(world: World, wild: bool) -> None:
    """Bind the three parts of a thread that runs through the story, or three empty ones."""
    thread = pick(world.chance, threads(wild)) if world.chance() < THREAD_SHARE else (((),),) * 3
    for name, alternatives in zip(("start", "middle", "end"), thread, strict=True):
        world.bound[name] = pick(world.chance, alternatives)


def outline(world: World, plot: str) -> Iterator[Parts | None]:
    """The beats of a story in their order, and None where a paragraph may begin."""
    yield parse("{opening}")
    yield parse("{start}")
    brevity = world.chance()
    for options in beats(plot):
        leave_out = options and () in options and world.chance() < brevity
        yield options and (() if leave_out else pick(world.chance, options))
    if world.bound["end"]:
        yield parse("{end}")
    elif world.chance() < CLOSING_SHARE:
        yield parse("{closing}")
    if world.chance() < MORAL_SHARE:
        yield pick(world.chance, morals(plot))
    if world.chance() < THE_END_SHARE:
        yield parse("the end.")


def paragraphs(world: World, outline: Iterator[Parts | None]) -> str:
    """Write the beats one after another, in one paragraph or in several."""
    break_share = 0.0 if world.chance() < ONE_PARAGRAPH_SHARE else PARAGRAPH_SHARE
    text, gap = "", ""
    for beat in outline:
        if beat is None:
            gap = "\n" if world.chance() < break_share else gap
        elif written := world.write(beat).strip():
            text += gap + capital(written)
            gap = " "
    return text


def polish(text: str) -> str:
    """Put capital letters at the start of sentences and quotes, and `an` before vowels.

    >>> polish('Mia said, "oh, a owl!" it was a one-eared owl. it saw her.')
    'Mia said, "Oh, an owl!" it was a one-eared owl. It saw her.'
    """
    text = VOWEL_AHEAD.sub(lambda match: f"{match[0][0]}n ", text)
    return SENTENCE_START.sub(lambda match: match[0].upper(), text)


def capital(text: str) -> str:
    """The text with a capital letter at its start, which may be a quote.

    >>> capital('"oh," said Mia.')
    '"Oh," said Mia.'
    """
    at = 1 if text[0] == '"' else 0
    return text[:at] + text[at].upper() + text[at + 1 :]


def pick(chance: Callable[[], float], options: tuple) -> object:
    """One of the options, each as likely as the others."""
    return options[int(chance() * len(options))]


@cache
def parse(template: str) -> Parts:
    """Compile a template.

    >>> parse("a {color@kite} [kite|ball]")
    ('a ', Symbol(key='color@kite', group='color', tag='@kite', capital=False), ' ', [('kite',), ('ball',)])
    """
    stack: list[list[list]] = [[[]]]  # alternatives that are open, the innermost last; each a list of parts
    for match in TOKEN.finditer(LONE_I.sub("I", template)):
        name, mark, literal = match.groups()
        if name:
            stack[-1][-1].append(symbol(name))
        elif mark == "[":
            stack.append([[]])
        elif mark == "|" and len(stack) > 1:
            stack[-1].append([])
        elif mark == "]" and len(stack) > 1:
            alternatives = stack.pop()
            stack[-1][-1].append([tuple(parts) for parts in alternatives])
        else:
            stack[-1][-1].append(literal or mark)
    return tuple(stack[0][0])


def symbol(text: str) -> Symbol:
    """The field that stands between braces."""
    key = text[0].lower() + text[1:]
    name, at, tag = key.partition("@")
    return Symbol(key, name.partition(".")[0], at + tag, capital=text[0].isupper())


def lines(text: str) -> list[str]:
    """The lines of a text; one that is indented deeper than the others belongs to the line before it."""
    return re.sub(r"\n +", " ", inspect.cleandoc(text)).split("\n")


def sections(text: str, divider: str) -> list[list[str]]:
    """The lines of a text, in groups that lines with the divider set apart."""
    return [list(group) for divides, group in groupby(lines(text), divider.__eq__) if not divides]


def alternatives(templates: list[str]) -> tuple[Parts, ...]:
    """Compile templates of which one will be chosen; a dash stands for nothing."""
    return tuple(parse(template.removeprefix("-")) for template in templates)


@cache
def beats(plot: str) -> tuple[tuple[Parts, ...] | None, ...]:
    """The alternatives of each beat of a plot, and None where a paragraph may begin."""
    return tuple(None if beat == ["*"] else alternatives(beat) for beat in sections(PLOTS[plot], ""))


@cache
def morals(plot: str) -> tuple[Parts, ...]:
    """The last words that fit a plot."""
    return alternatives(lines(MORALS[plot]))


@cache
def threads(wild: bool) -> tuple[tuple[tuple[Parts, ...], ...], ...]:
    """The alternatives of each part of each thread that a hero of this world can have."""
    texts = THREADS if wild else THREADS | CHILD_THREADS
    return tuple(tuple(alternatives(part) for part in sections(text, "---")) for text in texts.values())


@cache
def groups(wild: bool) -> dict[str, Group]:
    """Everything that fields are drawn from, in the world of animals or in that of children."""
    lists = {name: word_list(text) for name, text in LISTS.items()}
    phrases = {
        name: Group(("",), tuple((cell(line),) for line in lines(text)), False) for name, text in PHRASES.items()
    }
    animal_world = {"place": WILD_PLACES, "adult": WILD_ADULTS, "home": KINDS} if wild else {}
    tables = {name: table(text) for name, text in (TABLES | animal_world).items()}
    return lists | phrases | tables


def word_list(text: str) -> Group:
    """A list of words or short phrases with commas between them, common ones first."""
    return Group(("",), tuple((cell(item),) for item in text.split(",")))


def cell(text: str) -> Parts | str:
    """The template of an entry, or plain text where nothing is left to fill in."""
    parts = parse(" ".join(text.split()))
    return parts[0] if len(parts) == 1 and type(parts[0]) is str else parts


def table(text: str) -> Group:
    """A table with semicolons between its columns; the column `name` is the entry itself."""
    header, *entries = lines(text)
    columns = tuple("" if name == "name" else f".{name}" for name in header.split("; "))
    rows = tuple(tuple(cell(text) for text in line.split("; ")) for line in entries)
    return Group(columns, rows, common_first=False, bound=True)
