"""What is written about guardrun is true of it: names, options, commands, links, tables."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from manual import manual, options_of
from named import exists

from guardrun import config, errors
from guardrun.cli import SUBCOMMANDS
from guardrun.commands import launch
from guardrun.options import EACH, OPTIONS, parse

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BUILT = list(SUBCOMMANDS)
MAN = ROOT / "man" / "man1" / "guardrun.1"
MANUAL = manual(BUILT)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_generated_files_are_up_to_date() -> None:
    """Man pages and completions are what the tables of the parser make of them."""
    said = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


# ---------------------------------------------------------------- names


@pages
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    """Every path of the repository in a page is there, and every test named in it."""
    places = r"guardrun|tests|docs|man|completions|examples|bench|tools|\.ci"
    named = re.findall(rf"`((?:{places})/[\w./-]*)(?:::([\w:]+))?`", page.read_text())
    for path, test in named:
        if "NAME" in path:  # to be made by whoever reads it
            continue
        assert (ROOT / path).exists(), path
        if test:
            assert exists(f"{path}::{test}"), test


def _slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pages
def test_links_lead_somewhere(page: Path) -> None:
    """A link within the repository names a file that is there, and a heading of it."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert anchor in map(_slug, headings), target


@pages
def test_options_that_are_named_exist(page: Path) -> None:
    """An option in a page is one of a run or of a subcommand."""
    known = {f"--{name}" for name in OPTIONS} | options_of(BUILT)
    for span in re.findall(r"`(--?[a-zA-Z][^`]*)`", page.read_text()):
        for word in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span):
            assert word in known, span


def test_every_subcommand_is_named() -> None:
    """README names every subcommand where it lists them."""
    listed = (
        (ROOT / "README.md").read_text().partition("\n## Subcommands\n")[2].partition("\n## ")[0]
    )
    assert set(re.findall(r"`(\w+)`", listed)) >= set(SUBCOMMANDS)


def test_one_word_for_one_thing() -> None:
    """The glossary's words are in order, none of them twice."""
    lines = (ROOT / "docs" / "glossary.md").read_text().splitlines()
    words = [line.split("**")[1] for line in lines if line.startswith("**")]
    assert words == sorted(set(words), key=lambda word: word.casefold().replace(" ", "_"))


# ---------------------------------------------------------------- commands


def _commands(text: str) -> Iterator[list[str]]:
    """The words of every guardrun in a line of sh or crontab, without the shell's own."""
    lexer = shlex.shlex(re.sub(r"^([\d*/,-]+ ){5}", "", text), posix=True, punctuation_chars=True)
    lexer.whitespace = " \t"
    lexer.wordchars += "{}:,@%$[]."
    words: list[str] | None = None
    begins = True
    for word in lexer:
        if re.fullmatch(r"[|&;<>()]+", word):
            if words is not None:
                yield words
            words, begins = None, True
        elif words is not None:
            words.append(word)
        elif begins and re.fullmatch(r"(.*/)?guardrun", word):
            words = []
        else:
            begins = False
    if words is not None:
        yield words


def _shown(page: Path) -> Iterator[list[str]]:
    text = page.read_text()
    if page in MANUAL:
        text = text.replace(r"\e", "\\")
        blocks = re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", text, re.M | re.S)
    else:
        blocks = re.findall(r"^ *```(?:sh|crontab)\n(.*?)```", text, re.M | re.S)
        inline = re.findall(r"(?<!`)`(guardrun [^`]+)`", text)
        blocks += [" ".join(span.split()) for span in inline]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield from _commands(line)


@pytest.mark.parametrize("page", [*PAGES, *MANUAL], ids=lambda page: page.name)
def test_commands_that_are_shown_are_taken(page: Path, tmp_path: Path) -> None:
    """Whatever call of guardrun a page shows, guardrun understands."""
    environ = {"GUARDRUN_CONFIG": os.devnull, "GUARDRUN_STATE_DIR": str(tmp_path)}
    for words in _shown(page):
        if words == ["each"]:
            continue  # its name alone
        if words and words[0] == "each":
            config.settle_each(parse(words[1:], EACH), environ)
        elif words and words[0] in SUBCOMMANDS:
            assert words[0] in BUILT, words
            name, command, rest = launch.find(words[0], SUBCOMMANDS[words[0]], words[1:])
            command.make_context(name, list(rest))
        else:
            given = parse(words)
            if not given.question:
                config.settle(given, environ)


def test_commands_are_found_in_the_pages() -> None:
    """The search that the test above relies on finds what is there."""
    found = [words for page in [*PAGES, *MANUAL] for words in _shown(page)]
    assert ["history", "--result", "running"] in found
    assert ["--log-to", "stderr", "--", "pg_dump", "shop"] in found
    assert len(found) > 20
    with_key = "/usr/local/bin/guardrun -q --key 'report-{date}' -- make-report >file"
    assert list(_commands(with_key)) == [["-q", "--key", "report-{date}", "--", "make-report"]]


# ---------------------------------------------------------------- exit codes


def _codes(text: str) -> set[int]:
    return {int(code) for code in re.findall(r"(?<!\+)\b\d+\b", text)}


def test_every_exit_code_is_told() -> None:
    """README and man page tell the same exit codes, among them that of every kind of error."""
    readme = (
        (ROOT / "README.md").read_text().partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    )
    table = [line.split("|")[1] for line in readme.splitlines() if line.startswith("| ")]
    page = MAN.read_text().partition(".Sh EXIT STATUS\n")[2].partition(".Sh ")[0]
    items = [line for line in page.splitlines() if line.startswith(".It ")]
    in_readme = _codes(" ".join(table).replace("128+N", ""))
    assert in_readme == _codes(" ".join(items).replace("128+N", ""))
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    assert in_readme >= {kind.exit_code for kind in kinds if issubclass(kind, errors.GuardrunError)}
