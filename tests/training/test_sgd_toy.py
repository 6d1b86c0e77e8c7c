import csv
import math
from itertools import pairwise

import pytest

from lmpipe.training.sgd_toy import run_sgd_toy


def test_toy_follows_its_formula_and_repeats(tmp_path):
    run_sgd_toy(tmp_path / "toy.csv", seed=3)
    run_sgd_toy(tmp_path / "again.csv", seed=3)
    assert (tmp_path / "toy.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    with open(tmp_path / "toy.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["learning_rate"], row["step"]) for row in rows] == [
        (rate, str(step)) for rate in ("1", "10", "100", "1000") for step in range(11)
    ]
    assert 15 < float(rows[0]["loss"]) < 40
    for before, after in pairwise(rows):
        if after["step"] != "0" and before["learning_rate"] != "100":
            factor = 1 - 2 * float(before["learning_rate"]) / (100 * math.sqrt(int(before["step"]) + 1))
            assert float(after["loss"]) == pytest.approx(float(before["loss"]) * factor**2, rel=1e-4)
    finals = [float(row["loss"]) for row in rows if row["step"] == "10"]
    assert finals[1] < 5
    assert finals[2] < 1e-20
    assert finals[3] > 1e6


def test_toy_leaves_the_cell_of_an_overflow_empty(tmp_path):
    run_sgd_toy(tmp_path / "toy.csv", learning_rates=(1e30,), num_steps=2)
    assert (tmp_path / "toy.csv").read_text().splitlines()[2:] == ["1e+30,1,", "1e+30,2,"]
