import hashlib
import os
import threading

import pytest
from pydantic_core import from_json

from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write, copy_atomic, read_json, sha256_of, write_json

TEXT = "Zoë and the 龍\n<|endoftext|>\n".encode() * 1000


def test_a_file_appears_only_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "result.txt"
    with atomic_write(path) as file:
        file.write("half")
        assert not path.exists()
        file.write(" and half\n")
    assert path.read_bytes() == b"half and half\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.txt"]


def test_leftovers_of_a_killed_writer_are_removed_by_the_next(tmp_path):
    path = tmp_path / "result.txt"
    leftover, other = tmp_path / "result.txt.tmp-abc", tmp_path / "other.txt.tmp-abc"
    leftover.write_text("half")
    other.write_text("half")
    with atomic_write(path) as file:
        file.write("whole")
    assert not leftover.exists()
    assert other.exists(), "another file's leftovers are none of our business"


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "result.txt"
    with atomic_write(path) as slow:
        slow.write("slow")
        with atomic_write(path) as quick:
            quick.write("quick")
        assert path.read_text() == "quick"
    assert path.read_text() == "slow"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.txt"]


def test_many_writers_at_once_leave_one_whole_file_and_nothing_else(tmp_path):
    path, failed = tmp_path / "result.txt", []

    def write(letter):
        try:
            for _ in range(25):
                with atomic_write(path) as file:
                    file.write(letter * 1000)
        except OSError as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=[letter]) for letter in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert path.read_text() in {letter * 1000 for letter in "abcd"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.txt"]


def test_results_are_as_readable_as_other_files(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "atomic") as file:
        file.write("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_round_trip(tmp_path):
    value = {"text": "Zoë", "number": 0.1, "nothing": None}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_json_with_a_lone_surrogate_is_one_that_every_reader_takes(tmp_path):
    write_json(tmp_path / "a.json", {"path": "\udcff.bin", "\ud800": 1})
    expected = {"path": "\\udcff.bin", "\\ud800": 1}
    assert from_json((tmp_path / "a.json").read_bytes()) == read_json(tmp_path / "a.json") == expected


def test_json_refuses_what_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_is_one_clear_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not valid JSON") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_missing_json_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        read_json(tmp_path / "a.json")


def test_copies_and_checksums(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(TEXT)
    copy_atomic(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == TEXT
    assert sha256_of(tmp_path / "copy") == hashlib.sha256(TEXT).hexdigest()
    assert os.stat(tmp_path / "copy").st_nlink == 1, "copied, not linked"
