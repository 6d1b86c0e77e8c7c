"""Report of a made-up study: findings with figures of every kind, and templates for all problems."""

from dataclasses import replace
from pathlib import Path

import pytest
from jinja2 import DictLoader

from lmpipe.analysis.finding import (
    Expectation,
    Figure,
    Finding,
    Findings,
    MarkedText,
    Metric,
    Reference,
    ReferenceRow,
    Table,
    Text,
)
from lmpipe.analysis.results import Results
from lmpipe.planning.plan import load_plan
from lmpipe.report import prose
from lmpipe.report.page import write_page
from lmpipe.study.problems import PROBLEMS
from tests.support.fake_figures import EFFECTS, FIGURES
from tests.support.fake_results import EXPERIMENTS, fabricate_records, fabricate_study, fake_study

REPORTED = {name: EXPERIMENTS[name] for name in ("learning_rate", "layer_norm_ablation", "vocabulary")}
HOSTILE = 'A story.</blockquote><script>console.error("x")</script> & more \x00\x1b ' + "long" * 300
FIGURE_OF = {
    "learning_rate": ["rates"],
    "batch_size_experiment": ["curves", "rates"],
    "main_experiment": ["hero", "curves"],
    "transformer_accounting": ["lengths"],
    "adamw_accounting": ["memory"],
    "train_bpe_expts_owt": ["lengths"],
    "unicode2": ["lengths"],
    "learning_rate_tuning": ["curves"],
    "layer_norm_ablation": ["curves", "rates"],
    "pre_norm_ablation": ["curves"],
    "no_pos_emb": ["curves"],
    "swiglu_ablation": ["curves"],
}
BLOCKS = {
    "question": "Which setting of `{{ problem }}` is best?",
    "answer": "**{{ m.best | num }} is best**, with a loss of {{ m.loss | nats }}, and the others are close.",
    "details": "The curve is flat. A second sentence has the interval of {{ m.loss | range }} nats.",
    "caveat": "One seed only.",
    "outcome": "{% if expectations %}The difference is in the expected direction.{% endif %}",
    "finding": "{% if figures %}**{{ label(problem) | capitalize }}**: {{ m.best | num }} is best.{% endif %}",
    "warning": "{% if effects %}Losses differ by {{ m.loss | nats }} in {{ problem }}.{% endif %}",
}


def templates() -> DictLoader:
    """Return made-up templates of all problems, and the report's own ones."""
    blocks = dict(BLOCKS)
    for name in FIGURES:
        blocks[f"{name}_title"] = "The loss falls below a bigram table after 100,000 tokens"
        blocks[f"{name}_subtitle"] = "Validation loss in nats per token"
        blocks[f"{name}_alt"] = "The curves fall."
    text = "\n".join(f"{{% block {name} %}}{block}{{% endblock %}}" for name, block in blocks.items())
    by_name = {f"{problem}.md.j2": text for problem in (*PROBLEMS, "experiment")}
    own = ("_ablations.md.j2", "_times.md.j2", prose.SHARED_SENTENCES)
    return DictLoader(by_name | {name: (prose.PROBLEM_TEMPLATES / name).read_text(encoding="utf-8") for name in own})


def fake_finding(problem: str) -> Finding:
    """Return the finding of a problem."""
    names = FIGURE_OF.get(problem, [])
    metrics = {
        "best": Metric(0.01414, "", f"experiments/{problem}/table.csv"),
        "loss": Metric(1.8779, "nats per token", interval=(1.85, 1.9)),
        "absent": Metric(None, missing_reason="not measured"),
    }
    table = Table("Runs.", ["name", "loss", "`d_model`"], [["a", 1.25, 64], ["b", None, 64]], "it diverged")
    spans = [("Once upon a time a ", ""), ("brimbel", "unknown"), (" went home. ", ""), ("It was late.", "repeated")]
    texts = [MarkedText(f"Temperature {value}", [*spans, (" The end.", "cut")] * 3) for value in (0.0, 0.7, 1.0)]
    expected = [Expectation("NoPE", "higher", "higher", "position matters", "paper, section 3")]
    row = ReferenceRow("Longest token", "`␣accomplishment`", "␣<b>", "", "", "2025")
    return Finding(
        "answered",
        metrics=metrics,
        tables=[table, Table("Derivation of the memory.", ["term", "bytes"], [["weights", 4]])],
        texts=texts if problem == "generate" else [],
        facts={"progress": [progress(tokens) for tokens in (20_000, 200_000, 1_000_000)], "figures": names},
        figures=[Figure(name, FIGURES[name]) for name in names],
        effects=[effect for effect in EFFECTS if effect.variant == EFFECT_OF.get(problem)],
        expectations=expected if problem == "no_pos_emb" else [],
        reference=Reference([row]),
    )


EFFECT_OF = {
    "layer_norm_ablation": "no_norm",
    "pre_norm_ablation": "post_norm",
    "no_pos_emb": "no_pos_emb",
    "swiglu_ablation": "silu",
}


def progress(tokens: int) -> dict[str, object]:
    """Return a text after some training, as the facts of the main experiment have it."""
    spans = [["Once upon a time there was a ", ""], ["litle", "unknown"], [" dog who liked to play in the park.", ""]]
    return {"train_tokens": tokens, "loss": 3.3, "spans": spans}


def hostile_finding() -> Finding:
    """Return the finding of an experiment whose names, texts and tables try to break the page."""
    wide = Table("Wide.", [f"column {index}" for index in range(13)], [["a value"] * 12 + ["long" * 30]])
    sortable = Table("To sort.", ["loss"], [[10.5], [None], [-3.0], [9.25]], "it diverged")
    texts = [Text("Sample <b>", HOSTILE, "prose"), Text("Code", "x = 1  # " + "wide " * 80)]
    reason = "A name is `" + "long" * 60 + "`. Is `a<b`, or <b>break</b>?"
    metrics = {"best": Metric(1.5), "loss": Metric(2.5, interval=(2.0, 3.0))}
    return Finding("partial", metrics, facts={"figures": []}, texts=texts, tables=[wide, sortable], reason=reason)


def fake_findings(results: Results) -> Findings:
    """Return findings for all problems and other experiments, and a hostile one; one is missing, one partial."""
    problems = {name: fake_finding(name) for name in [*PROBLEMS, *(n for n in results.run_keys if n not in PROBLEMS)]}
    problems["unicode1"] = Finding("missing", reason="The study has no corpus; add one to `corpora`.")
    problems["adamw_accounting"] = replace(problems["adamw_accounting"], status="partial")
    return Findings(study="fabricated", problems=problems | {"hostile": hostile_finding()})


def write_fake_page(results: Results, findings: Findings, name: str = "report.html") -> Path:
    """Write the page of a made-up study, whose prose is made up, too."""
    path, plan = results.folder / name, load_plan(results.study.model_dump(exclude_none=True), "the study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prose.TEMPLATES, "loader", templates())
        write_page(path, plan, results, findings)
    return path


def report_study(folder: Path) -> None:
    """Make a study with runs, records and a made-up report."""
    results = fabricate_study(folder, REPORTED)
    fabricate_records(results)
    write_fake_page(results, fake_findings(results))


def open_reported(folder: Path) -> Results:
    """Return the results of the study that report_study has made in a folder."""
    plan = load_plan(fake_study(experiments=REPORTED), "the fabricated study")
    return Results(folder, plan.study, plan.run_keys())
