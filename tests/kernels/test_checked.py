import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
ENGINE = [
    "kernels/test_bpe_kernels.py",
    "tokenizer/test_pretoken_counts.py",
    "kernels/test_merge_loop.py",
    "tokenizer/test_bpe_training.py",
    "tokenizer/test_tokenizer.py",
    "data/test_encode.py",
    "kernels/test_transformer_train.py",
]


def test_kernels_stay_inside_their_buffers():
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
