import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
# Tests that load checked kernels themselves are not repeated.
ENGINE = [
    "kernels/test_merge_loop.py",
    "kernels/test_transformer_train.py",
    "tokenizer/test_pretoken_counts.py",
    "tokenizer/test_bpe_training.py",
    "tokenizer/test_tokenizer.py",
    "data/test_encode.py",
]


def test_kernels_stay_inside_their_buffers():
    options = ["-q", "-n0", "-p", "no:cacheprovider", "--hypothesis-profile", "few examples"]
    options += ["-k", "not (memory or naive_reference)"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(TESTS / name) for name in ENGINE)],
        env={**os.environ, "LMPIPE_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
