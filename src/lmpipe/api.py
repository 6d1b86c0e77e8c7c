"""Study and Run: the results of a study in a script or notebook, as `import lmpipe` offers them (docs/library.md)."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lmpipe.analysis.finding import Finding, Findings
from lmpipe.analysis.run_table import study_table
from lmpipe.analysis.runs import Run as RunResult
from lmpipe.data.sources.first_bytes import BYTE_ORDER_MARK, HEAD_BYTES, check_text
from lmpipe.errors import InputError
from lmpipe.generation.inference import CompiledLM, read_run, read_tokenizer
from lmpipe.generation.sampling import check_sampling, generate
from lmpipe.io.validation import require_type
from lmpipe.planning.plan import find
from lmpipe.planning.session import StudySession, find_study
from lmpipe.study.text_files import open_plain_text
from lmpipe.tokenizer.parallel_encoding import encode_path
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.training.run_documents import RunConfig, RunSummary

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lmpipe.model.transformer import TransformerLM
    from lmpipe.training.evaluation import Evaluation


def open_study(folder: str | os.PathLike[str]) -> "Study":
    """Open a study by its results folder or its study file; raise InputError if there is none.

    The study may be under way: only what is asked for is read, and it is read then.
    """
    require_type("folder", folder, (str, os.PathLike), "the path of a results folder")
    return Study(find_study(folder))


class Study:
    """Results of a study: its runs as a table, each run, and the findings of its report."""

    def __init__(self, session: StudySession):
        self.session = session
        self.paths = session.paths

    def __repr__(self) -> str:
        return f"open_study({str(self.paths.root)!r})"

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.session.plan.study.study

    @property
    def runs(self) -> "pd.DataFrame":
        """Every run with every setting and final metric, one a row; results/README.md explains the columns.

        A run without results has the status `waiting`, `running`, `stopped` or `failed`. The files are read now.
        """
        return study_table(self.session)

    def run(self, path: str | os.PathLike[str]) -> "Run":
        """Return a run by its `path` in `runs`, also with the study's folder, or as in `main_experiment/stories/seed0`.

        Raises InputError, with the nearest names, if the study has no such run, and if the run has no results.
        """
        require_type("run", path, (str, os.PathLike), "the path of a run, such as EXPERIMENT/RUN/seed0")
        root, absolute, name = self.paths.root, Path(os.path.abspath(path)), Path(path)
        if absolute.is_relative_to(os.path.abspath(root)):
            name = absolute.relative_to(os.path.abspath(root))
        runs = {run.id: run for run in self.session.plan.runs}
        return Run(root / find("run", name.as_posix().removeprefix("runs/"), runs).folder)

    @property
    def findings(self) -> dict[str, Finding]:
        """Findings of the report by problem, with metrics, tables, figures; raises InputError before the report."""
        return Findings.read(self.paths.findings).problems


class Run:
    """A trained run, by its folder: results/STUDY/runs/EXPERIMENT/RUN/seedN.

    Raises InputError if the run has no results or damaged ones.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        require_type("folder", folder, (str, os.PathLike), "the path of a run's folder")
        self.folder = Path(folder)
        self._result = RunResult.read(Path(os.path.abspath(folder)))

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def config(self) -> RunConfig:
        """Everything that the run was trained with: `config.model`, `config.training`, `config.corpus` and more."""
        return self._result.config

    @property
    def summary(self) -> RunSummary:
        """Result of the run: `summary.status`, `summary.validation_loss` and more."""
        return self._result.summary

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """Learning curve: a row a step with step, tokens, wall_seconds and losses; NaN where nothing was measured."""
        return self._result.metrics().astype({"step": int, "tokens": int})

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer that the run was trained with."""
        return read_tokenizer(self.folder, self.config)

    def model(self, device: "torch.device | str | None" = None) -> "TransformerLM":
        """Return a new torch module with the trained weights, in evaluation mode."""
        from lmpipe.model.transformer import TransformerLM

        config, weights, _ = read_run(self.folder)
        return TransformerLM.from_arrays(config, weights).to(device).eval()

    @cached_property
    def _model(self) -> "TransformerLM":
        return self.model()

    @cached_property
    def _compiled(self) -> CompiledLM:
        return CompiledLM(*read_run(self.folder)[:2])

    def logits(self, ids: "Sequence[int] | torch.Tensor") -> "torch.Tensor":
        """Return the logits of the next token after each of the ids, (seq,) or (batch, seq): (..., seq, vocab_size).

        Raises InputError for ids that the model cannot take, and for more than context_length of them.
        """
        from lmpipe.training.evaluation import logits_of

        return logits_of(self._model, ids)

    def evaluate(self, text: str | Path) -> "Evaluation":
        """Evaluate the model on a text, or on the file at a Path, as training evaluates the validation split.

        Windows of context_length tokens follow each other without overlap. The first token of the text is not
        predicted. A byte-order mark of a file is left out. Raises InputError for a text of fewer than two tokens, and
        for a file that cannot be read or is no text in UTF-8.
        """
        from lmpipe.training.evaluation import evaluate

        require_type("text", text, (str, Path), "a str, or a Path to read from")
        if isinstance(text, Path):
            with open_plain_text(text) as file:
                head = file.read(HEAD_BYTES)
            check_text(head, text)
            ids = encode_path(text, self.tokenizer, len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0)
        else:
            ids = self.tokenizer.encode_to_numpy(text)
        if len(ids) < 2:
            where = text if isinstance(text, Path) else "text"
            raise InputError(where, f"has {len(ids)} tokens, of which the first is not predicted", "use a longer text")
        return evaluate(self._model, ids, self.tokenizer.byte_lengths, self.config.training.precision)

    def loss(self, text: str | Path) -> float:
        """Return the mean loss on a text or file in nats per token, as `evaluate` does."""
        return self.evaluate(text).loss

    def bits_per_byte(self, text: str | Path) -> float:
        """Return the loss on a text or file in bits per byte, without end-of-text tokens, as `evaluate` does."""
        return self.evaluate(text).bits_per_byte

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str | list[str]:
        """Return the continuation of a prompt, without the prompt; of a list of prompts, a list.

        An empty prompt starts a new document. A text ends with its document, or after max_new_tokens. Temperature 0
        takes the likeliest token. The same seed gives the same text.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        check_sampling(prompts, max_new_tokens, temperature, top_p, seed)
        samples = generate(self._compiled, self.tokenizer, prompts, temperature, top_p, max_new_tokens, seed)
        texts = [self.tokenizer.decode(sample.new_ids) for sample in samples]
        return texts[0] if isinstance(prompt, str) else texts
