"""Problem unicode1: the character chr(0), its representation against its printed form, and its effect in a text."""

from lmpipe.analysis.finding import Finding, Metric, Text, missing
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_command, format_session
from lmpipe.tokenizer.documents import UnicodeDemo

ID = "unicode1"
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
    facts = {
        "code_points": [f"U+{ord(character):04X}" for character in null.printed],
        "is_control": null.category == "Cc",
        "is_named_null": null.unicode_name_is_null,
        "is_escaped_inside": null.representation.strip("'") in null.joined_representation,
        "is_printed_inside": "\0" in null.joined_printed,
    }
    session = Text(
        f"Session of Python {unicode.python}; ␀ is the null character", format_session(list(map(dict, null.session)))
    )
    return Finding("answered", metrics=metrics, facts=facts, texts=[session])
