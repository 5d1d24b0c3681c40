"""The table of options, and the parser of a run's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrun.errors import UsageError
from guardrun.help import HELP
from guardrun.options import EACH, FILE_ONLY, OPTIONS, Option, parse

WORDS = st.lists(st.text(st.characters(exclude_characters="\0"), max_size=12), max_size=6)


def found(*words: str) -> list[tuple[str, str]]:
    """Names and texts of the options among these words."""
    return [(option.name, text) for option, text in parse(words).options]


def message(*words: str) -> str:
    """What is said about words that are wrong."""
    with pytest.raises(UsageError) as caught:
        parse(words)
    return str(caught.value)


def test_every_option_has_a_help_text_and_every_help_text_an_option() -> None:
    """The table and the texts name the same options, in the same order."""
    assert list(HELP) == [*OPTIONS, *(option.name for option in EACH)]


def test_short_names_are_unique() -> None:
    """One letter means one option."""
    letters = [option.short for option in OPTIONS.values() if option.short]
    assert len(letters) == len(set(letters))


def test_names_are_unique_and_written_as_on_the_command_line() -> None:
    """A long name is lower case words joined by dashes."""
    for name in OPTIONS:
        assert name.replace("-", "").isalpha()
        assert name == name.lower()


@given(WORDS)
def test_after_two_dashes_everything_is_command(words: list[str]) -> None:
    """What follows ``--`` is COMMAND, word for word, whatever it looks like."""
    parsed = parse(["-q", "--", *words])
    assert parsed.command == tuple(words)
    assert len(parsed.options) == 1


@given(WORDS)
def test_after_the_first_word_everything_is_command(words: list[str]) -> None:
    """The first word that is no option starts COMMAND; nothing after it is read."""
    assert parse(["-q", "job", *words]).command == ("job", *words)


def test_a_second_pair_of_dashes_belongs_to_command() -> None:
    """Only the first ``--`` is ours."""
    assert parse(["--", "a", "--", "b"]).command == ("a", "--", "b")


def test_a_single_dash_and_an_empty_word_start_command() -> None:
    """``-`` and the empty word are not options."""
    assert parse(["-q", "-", "x"]).command == ("-", "x")
    assert parse(["-q", "", "x"]).command == ("", "x")


def test_undecodable_bytes_are_kept() -> None:
    """A word that is not UTF-8 comes through as the interpreter gave it."""
    assert parse(["--lock-file=\udcff", "a\udcfe"]).command == ("a\udcfe",)
    assert found("--lock-file=\udcff", "a") == [("lock-file", "\udcff")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--wait=5"], [("wait", "5")]),
        (["--wait", "5"], [("wait", "5")]),
        (["--wait="], [("wait", "")]),
        (["--lock=a=b"], [("lock", "a=b")]),
        (["-w5"], [("wait", "5")]),
        (["-w", "5"], [("wait", "5")]),
        (["-w", "-5"], [("wait", "-5")]),
        (["-nq"], [("nonblock", ""), ("quiet", "")]),
        (["-qw5"], [("quiet", ""), ("wait", "5")]),
        (["-qw", "5"], [("quiet", ""), ("wait", "5")]),
        (["-j4"], [("slots", "4")]),
        (["-j4q"], [("slots", "4q")]),
        (["-cecho hi"], [("command", "echo hi")]),
        (["--needs=a", "--needs", "b"], [("needs", "a"), ("needs", "b")]),
        (["--lock=--"], [("lock", "--")]),
    ],
)
def test_ways_to_write_an_option(words: list[str], expected: list[tuple[str, str]]) -> None:
    """Values stand after ``=``, in the next word, or behind a letter; flags may be bundled."""
    assert found(*words, "--", "true") == expected
    assert parse([*words, "--", "true"]).command == ("true",)


@pytest.mark.parametrize("option", [o for o in OPTIONS.values() if o.where != FILE_ONLY])
def test_abbreviations_are_refused(option: Option) -> None:
    """A name cut short is not an option, unless it happens to be another one's."""
    name = option.name[:-1]
    if name not in OPTIONS:
        assert "is not an option" in message(f"--{name}", "x", "true")


def test_options_of_files_are_not_options_of_the_line() -> None:
    """``keep`` and ``redact`` stand in a file only."""
    assert "is not an option" in message("--keep=1d", "true")
    assert "is not an option" in message("--redact=x", "true")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lokc", "x", "true"], "--lokc is not an option; did you mean --lock?"),
        (["--time-out=5", "true"], "did you mean --timeout?"),
        (["--xyzzy", "true"], "--xyzzy is not an option; options of COMMAND stand after it"),
        (["-z", "true"], "-z is not an option;"),
        (["-qzn", "true"], "-z is not an option (in -qzn)"),
        (["-quiet", "true"], "did you mean --quiet?"),
        (["-é", "true"], "-é is not an option"),
        (["---"], "--- is not an option"),
        (["--quiet=yes", "true"], "--quiet takes no value"),
        (["--lock"], "--lock needs a value: TEMPLATE"),
        (["-w"], "--wait needs a value: DURATION|forever"),
        (["--lock", "--", "true"], "--lock needs a value"),
        (["--lock", "--key", "x", "true"], "--lock needs a value"),
        (["--retries"], "--retries needs a value: N"),
    ],
)
def test_wrong_words_are_named(words: list[str], said: str) -> None:
    """A message names the word that is wrong, and the option that may be meant."""
    assert said in message(*words)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["-qh"], ["-q", "--help", "--bogus"]])
def test_help_is_answered_before_what_follows(words: list[str]) -> None:
    """Whoever asks for help gets it, whatever comes after."""
    assert parse(words).question == "help"


def test_help_after_command_is_not_ours() -> None:
    """``guardrun ls --help`` asks ls."""
    parsed = parse(["ls", "--help"])
    assert parsed.question == ""
    assert parsed.command == ("ls", "--help")


def test_a_mistake_before_help_is_still_a_mistake() -> None:
    """Words are read in their order."""
    assert "--bogus is not an option" in message("--bogus", "--help")
