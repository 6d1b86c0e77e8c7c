"""Problem unicode1: the character chr(0), its representation against its printed form, and its effect in a text."""

from lmpipe.analysis.finding import Finding, Metric, Text, missing
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import code_span, format_command, format_int, format_session
from lmpipe.tokenizer.documents import NullCharacter, UnicodeDemo

ID = "unicode1"
TITLE = "The null character"
QUESTION = (
    "Which character is `chr(0)`, how does its representation differ from what print writes, "
    "and what happens when it stands inside a longer text?"
)
SOURCE = "unicode.json"


def analyze(results: Results) -> Finding:
    """Return the answers that running the code gave."""
    unicode, path = results.document(UnicodeDemo, SOURCE), results.folder / SOURCE
    if unicode is None:
        return missing(f"The Unicode snippets have not been run in this study; run {format_command(path)}.")
    null = unicode.null
    metrics = {
        "representation": Metric(null.representation, "", SOURCE),
        "printed_characters": Metric(len(null.printed), "characters", SOURCE),
        "joined_length": Metric(null.joined_length, "characters", SOURCE),
    }
    caption = f"Run by Python {unicode.python}; ␀ stands for the null character, which has no shape"
    session = Text(caption, format_session(list(map(dict, null.session))))
    return Finding("answered", metrics=metrics, sentences=sentences_of(null), texts=[session])


def sentences_of(null: NullCharacter) -> list[str]:
    """Return the three answers, each from the interpreter's output."""
    escape = null.representation
    code_points = " ".join(f"U+{ord(character):04X}" for character in null.printed)
    kind = "a control character" if null.category == "Cc" else f"of category {null.category}"
    name = ", which Unicode calls NULL," if null.unicode_name_is_null else ""
    inside = "the same escape" if escape.strip("'") in null.joined_representation else "another form"
    presence = "still there" if "\0" in null.joined_printed else "gone"
    return [
        f"`chr(0)` is the character {code_points}{name} and it is {kind} without a shape of its own.",
        f"Its representation is the visible escape {code_span(escape)}, {len(escape)} characters long with its quotes, "
        f"while print writes the character itself ({code_points}), of which a terminal shows nothing.",
        f"Inside a text it is a character like any other: the joined text has {format_int(null.joined_length)} "
        f"characters, its representation shows {inside}, and in what print writes the character is {presence}, "
        "between the words, unseen.",
    ]
