import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ENGINE = [
    "test_kernels.py",
    "test_counting.py",
    "test_merging.py",
    "test_bpe.py",
    "test_tokenizer.py",
    "test_encoding.py",
    "test_layers.py",
]


@pytest.mark.slow
def test_the_engine_stays_inside_its_buffers_when_every_address_is_checked():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            *(str(TESTS / name) for name in ENGINE),
        ],
        env={**os.environ, "LMPIPE_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
