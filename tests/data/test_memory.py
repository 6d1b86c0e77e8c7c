"""Readers of large files take constant memory, whatever the file contains; tests/workflow tries whole stages."""

import subprocess
import sys
from pathlib import Path

import pytest

from lmpipe.data.documents import TokenFileInfo

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")

GROWTH_BYTES = 5_000_000
# Reading of files of any content, which can be large: 40 MB, so that one that was held would stand out.
READINGS = {
    "a split of a text without marks": """
from pathlib import Path
from lmpipe.data.sources.readers import TextReader
from lmpipe.data.sources.splits import JoinedText
from lmpipe.errors import InputError
try:
    JoinedText(TextReader().read(path), Path(path).parent).split(0.5, seed=0)
    raise AssertionError
except InputError:
    pass
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


@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS)
def test_readers_take_constant_memory(tmp_path, reading):
    code = "from lmpipe.provenance.environment import peak_memory_bytes"
    for size in (10_000_000, 40_000_000):
        path = tmp_path / f"{size}.bin"
        path.write_bytes(b"a" * size)
        facts = {"tokens": size // 2, "dtype": "uint16", "max_id": 0x6161, "vocab_size": 1 << 16, "text_bytes": size}
        info = TokenFileInfo(**facts, sha256="", tokenizer={"name": "", "sha256": ""}, unigram_entropy=0.0)
        info.write(path.with_suffix(".json"))
        code += f"\npath, size = {str(path)!r}, {size}{reading}\nprint(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large < small + GROWTH_BYTES
