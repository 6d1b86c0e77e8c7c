"""Memory of the stages that read a text does not grow with it."""

import pytest

from benchmarks import memory
from lmpipe.data.sources.stories import stories
from lmpipe.planning.plan import load_plan
from lmpipe.planning.session import write_study
from lmpipe.study.paths import StudyPaths
from tests.support.cli_cases import data_commands, lmpipe

TEXT_BYTES = 4_000_000
GROWTH_MB = 5  # a stage that held the text would need 12 MB more for one four times as long
READERS = ("make-corpus", "count-pretokens", "train-bpe", "encode", "evaluate-tokenizers")


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """Peak memory of each stage in MB, for a text and for one four times as long."""
    some = [f"{story}\n<|endoftext|>\n" for story in stories(1000)]
    tables = []
    for times in (1, 4):
        folder = tmp_path_factory.mktemp(f"text-{times}")
        text = folder / "text.txt"
        with open(text, "w", encoding="utf-8") as file:
            for repetition in range(times * TEXT_BYTES // sum(map(len, some))):
                file.writelines(f"{repetition} {story}" for story in some)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            plan = load_plan(memory.study_of([text]), "memory")
            write_study(plan, StudyPaths(folder / "results/memory"))
        commands = data_commands(plan, "results/memory")
        for arguments in [
            *(call for call in commands if call[0] in READERS),
            ["evaluate-tokenizers", "results/memory"],
        ]:
            lmpipe(arguments, cwd=folder, check=True)
        tables.append(memory.peaks(folder)["peak_mb"])
    return tables


@pytest.mark.parametrize("command", READERS)
def test_stage_takes_constant_memory(peaks, command):
    short, long = (table[command] for table in peaks)
    assert 10 < long < short + GROWTH_MB
