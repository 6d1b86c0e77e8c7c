"""The facts of unicode_demo.json, checked again without the snippets that produced them."""

import builtins
import sys

import pytest

from lmpipe.tokenizer import unicode_demo


@pytest.fixture(scope="module")
def facts():
    return unicode_demo.demonstrate_unicode()


def test_snippet_output_includes_values_prints_and_exceptions():
    statements = unicode_demo.run_snippet("x = [1]\nx\nprint('a', 'b')\nNone\n1 / 0\nfor i in range(2):\n    i")
    assert [statement.output for statement in statements] == [
        "",
        "[1]\n",
        "a b\n",
        "",
        "ZeroDivisionError: division by zero\n",
        "0\n1\n",
    ]
    assert statements[5].code == "for i in range(2):\n    i"


def test_running_a_snippet_leaves_the_interpreter_unchanged(capsys):
    hook, before = sys.displayhook, getattr(builtins, "_", None)
    unicode_demo.run_snippet("12345")
    assert sys.displayhook is hook
    assert getattr(builtins, "_", None) is before
    assert capsys.readouterr().out == ""


def test_null_character(facts):
    null = facts.null
    assert null.representation == "'\\x00'"
    assert null.printed == "\0"
    assert null.joined_printed == "one\0two"
    assert null.joined_representation == "'one\\x00two'"
    assert null.joined_length == 7
    assert (null.category, null.unicode_name_is_null) == ("Cc", True)


def test_sizes_follow_the_standards_table(facts):
    samples = facts.encodings.samples
    assert len(samples) == 10
    for sample in samples:
        text, sizes = sample.text, sample.encodings
        assert sizes["UTF-8"].bytes == sum(
            1 + sum(ord(character) >= limit for limit in (0x80, 0x800, 0x10000)) for character in text
        )
        assert sizes["UTF-16"].bytes == sum(2 + 2 * (ord(character) > 0xFFFF) for character in text)
        assert sizes["UTF-32"].bytes == 4 * len(text)
        zeros = sum(ord(character).to_bytes(4, "big").count(0) for character in text)
        assert sizes["UTF-32"].zero_share == pytest.approx(zeros / (4 * len(text)), abs=1e-12)
        assert sizes["UTF-8"].zero_share == 0
    assert samples[0].encodings["UTF-16"].bytes_per_character == 2, "without a byte-order mark"


def test_the_wrong_decoder_fails_on_the_computed_input_and_on_nothing_before(facts):
    wrong = facts.bytewise_decoder
    words = " ".join(unicode_demo.SAMPLES.values()).split()
    assert wrong.input == next(word for word in words if not word.isascii())
    assert not wrong.input.isascii()
    first = next(byte for byte in wrong.input.encode() if byte > 127)
    with pytest.raises(UnicodeDecodeError) as caught:
        bytes([first]).decode("utf-8")
    assert wrong.session[2].output == f"UnicodeDecodeError: {caught.value}\n"


def test_the_wrong_decoder_survives_ascii_alone(facts):
    wrong = facts.bytewise_decoder
    assert wrong.characters_failing == 0x110000 - 0x800 - 128
    assert wrong.first_failing_code_point == 128
    assert wrong.session[-1].output == repr(wrong.input) + "\n"


def test_two_bytes_are_counted_right(facts):
    pairs = facts.two_byte_sequences
    # Two ASCII characters, or one lead byte c2-df with one continuation byte 80-bf.
    assert pairs.valid == 128 * 128 + (0xDF - 0xC2 + 1) * 64
    assert pairs.valid + pairs.invalid == pairs.sequences == 65536
    assert sum(entry.sequences for entry in pairs.reasons) == pairs.invalid


def test_every_example_is_invalid_for_its_reason(facts):
    pairs = facts.two_byte_sequences
    examples = [(entry.example, entry.reason) for entry in pairs.reasons]
    for example, reason in [*examples, (pairs.example, pairs.example_reason)]:
        data = bytes.fromhex(example)
        assert len(data) == 2
        with pytest.raises(UnicodeDecodeError) as caught:
            data.decode("utf-8")
        assert caught.value.reason == reason
