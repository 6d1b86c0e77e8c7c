"""Every input of the table comes to its documents, or to one line that says what to do."""

import pytest

from tests.support.inputs import INPUTS, outcome


@pytest.mark.parametrize("name", INPUTS)
def test_input(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMPIPE_CACHE", str(tmp_path / "cache"))
    result, expected = outcome(INPUTS[name]), INPUTS[name].expected
    if isinstance(expected, str):
        assert expected in result.refusal and "; " in result.refusal and "\n" not in result.refusal
    else:
        assert (result.refusal, result.documents) == ("", expected)
        assert 0.09 <= result.valid_share <= 0.11 and result.num_shards == 1
