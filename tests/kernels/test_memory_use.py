"""Memory does not grow with the text: every stage on a text and on one four times as long, each in its own process."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import memory
from lmpipe.data.sources.stories import stories

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]

TEXT_BYTES = 4_000_000
# A stage that held the text would need 12 MB more for one four times as long.
GROWTH_BYTES = 5_000_000
# The last stages load torch, and read a corpus by what the other tests look at.
STAGES = [stage.name for stage in memory.stages([], Path())[:-2]]
# Reading of files of any content, which can be large: 100 MB, so that one that was held would stand out.
READINGS = {
    "a split of a text without marks": """
from lmpipe.data.corpus import nearest_boundaries
with open(path, "rb") as text:
    assert nearest_boundaries(text, b"#", size // 2) == []
""",
    "documents of a text without delimiters": """
from lmpipe.tokenizer.pretokenizer import documents
assert sum(map(len, documents(path))) == size
""",
    "batches and validation windows": """
from lmpipe.data.token_dataset import TokenDataset, get_batch, validation_windows
tokens = TokenDataset.open(path).tokens
for step in range(200):
    get_batch(tokens, 0, step, 16, 128)
assert sum(len(targets) for _, targets in validation_windows(tokens, 1024)) == size // 2 - 1
""",
}


@pytest.fixture(scope="module")
def peaks(tmp_path_factory) -> dict[str, tuple[int, int]]:
    """The peak of each stage for a text and for one four times as long, in bytes."""
    folder = tmp_path_factory.mktemp("memory")
    some = [f"{story}\n<|endoftext|>\n" for story in stories(1000)]

    def peaks_of(times: int) -> list[int]:
        text = folder / f"{times}.txt"
        with open(text, "w", encoding="utf-8") as file:
            for again in range(times * TEXT_BYTES // sum(map(len, some))):
                file.writelines(f"{again} {story}" for story in some)
        stages = memory.stages([text], folder / str(times))[: len(STAGES)]
        return [memory.measure_stage(stage).peak_bytes for stage in stages]

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(memory, "SHARDS", 2)
        patch.setattr(memory, "VOCAB_SIZE", 1000)
        return dict(zip(STAGES, zip(*pool.map(peaks_of, (1, 4)), strict=True), strict=True))


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_needs_more_memory_for_a_longer_text(peaks, stage):
    short, long = peaks[stage]
    assert 10_000_000 < long < short + GROWTH_BYTES


@pytest.mark.parametrize("reading", READINGS)
def test_no_file_is_held_while_it_is_read(tmp_path, reading):
    def peak(size: int) -> int:
        path = tmp_path / f"{size}.bin"
        path.write_bytes(b"a" * size)
        info = {"tokens": size // 2, "dtype": "uint16", "max_id": 0x6161, "vocab_size": 1 << 16}
        info |= {"sha256": "", "tokenizer": {"sha256": ""}, "unigram_entropy": 0.0}
        path.with_suffix(".json").write_text(json.dumps(info), encoding="utf-8")
        code = f"path, size = {str(path)!r}, {size}{READINGS[reading]}"
        code += "from lmpipe.provenance.code_digest import peak_memory_bytes\nprint(peak_memory_bytes())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert peak(100_000_000) < peak(10_000_000) + GROWTH_BYTES
