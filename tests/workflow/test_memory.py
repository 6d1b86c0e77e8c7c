"""Memory of the stages that read a text does not grow with it."""

import pytest

from benchmarks import memory
from lmpipe.data.sources.stories import stories

TEXT_BYTES = 4_000_000
GROWTH_MB = 5  # a stage that held the text would need 12 MB more for one four times as long
TARGET = "results/memory/tokenizer_experiments.json"  # made from all earlier stages
READERS = ("make-corpus", "count-pretokens", "train-bpe", "encode", "evaluate-tokenizers")


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """Peak memory of each stage in MB, for a text and for one four times as long."""
    some = [f"{story}\n<|endoftext|>\n" for story in stories(1000)]
    tables = []
    for times in (1, 4):
        folder = tmp_path_factory.mktemp(f"text-{times}")
        files = [folder / "text.txt"]  # one shard: the records of temporary shards do not stay
        for path in files:
            with open(path, "w", encoding="utf-8") as file:
                for repetition in range(times * TEXT_BYTES // len(files) // sum(map(len, some))):
                    file.writelines(f"{repetition} {story}" for story in some)
        tables.append(memory.run(folder, files, TARGET)["peak_mb"])
    return tables


@pytest.mark.parametrize("command", READERS)
def test_stage_takes_constant_memory(peaks, command):
    short, long = (table[command] for table in peaks)
    assert 10 < long < short + GROWTH_MB
