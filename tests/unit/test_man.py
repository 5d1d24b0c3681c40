"""The man pages are clean, complete, and true of the program."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from manual import MAN, PREFIX, manual, options_of
from support import need

from guardrun import configfile, template
from guardrun.cli import SUBCOMMANDS
from guardrun.options import FILE_ONLY, LINE_ONLY, OPTIONS

EVERY = manual()

pages = pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)


@pages
def test_a_page_is_clean(page: Path) -> None:
    """mandoc finds nothing to warn about."""
    need("mandoc")
    said = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", page],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in said.stdout.splitlines() if "outdated mandoc.db" not in line]
    assert (said.returncode, lines, said.stderr) == (0, [], "")


@pages
def test_a_page_has_what_its_peers_have(page: Path) -> None:
    """Pages of commands tell exit codes, environment and examples, in the usual order."""
    usual = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "ENVIRONMENT", "FILES", "EXIT STATUS"]
    usual += ["EXAMPLES", "SEE ALSO"]
    wanted = usual if page.suffix == ".1" else ["NAME", "DESCRIPTION", "EXAMPLES", "SEE ALSO"]
    found = re.findall(r"^\.Sh (.*)$", page.read_text(), re.M)
    assert [title for title in found if title in wanted] == wanted


@pages
def test_pages_that_are_named_exist(page: Path) -> None:
    """A page of guardrun's that another page leads to is there."""
    for name, section in re.findall(r"^\.Xr (guardrun\S*) (\d)", page.read_text(), re.M):
        assert (MAN / f"man{section}" / f"{name}.{section}").exists(), name


def test_every_subcommand_has_a_page() -> None:
    """``man guardrun-NAME`` finds a page that has the name among its own, and the synopsis."""
    for name in SUBCOMMANDS:
        page = MAN / "man1" / f"{PREFIX}{name}.1"
        text = page.read_text()
        if text.startswith(".so "):
            text = (MAN / text.split()[1]).read_text()
        assert re.search(rf"^\.Nm {PREFIX}{name}\b", text, re.M), name
        assert re.search(rf"^\.Nm guardrun {name}$", text, re.M), name


def test_an_alias_leads_to_a_page() -> None:
    """There is no alias of what is gone."""
    found = [path for path in MAN.glob("man?/*") if path not in EVERY]
    assert len(found) > 5
    for path in found:
        assert MAN / path.read_text().split()[1] in EVERY
        assert path.stem.removeprefix(PREFIX) in SUBCOMMANDS


def test_options_that_are_named_exist() -> None:
    """An option in the prose of a page is one of a run or of a subcommand."""
    known = {f"--{name}" for name in OPTIONS} | options_of(SUBCOMMANDS)
    known |= {f"-{option.short}" for option in OPTIONS.values() if option.short} | {"--"}
    for page in manual(SUBCOMMANDS):
        for words in re.findall(r"(?:^\.|^\..* |\( )Fl (\S+)", page.read_text(), re.M):
            assert f"-{words}" in known, (page.name, words)


def test_every_template_variable_is_told() -> None:
    """guardrun-templates(7) has the variables that there are, and no other."""
    page = (MAN / "man7" / "guardrun-templates.7").read_text()
    items = " ".join(re.findall(r"^\.It Li (\{.*)$", page, re.M))
    told = {re.split(r"[.:@]", word)[0] for word in re.findall(r"\{([^}]+)\}", items)}
    # The message for an unknown variable is what a user can see of the list.
    with pytest.raises(Exception, match="is not a variable") as raised:
        template.parse("{nothing}")
    there = str(raised.value).partition("there are")[2].partition("; a literal")[0]
    known = {re.split(r"[.:]", word)[0] for word in re.findall(r"\{([^}]+)\}", there)}
    assert told == known
    for name in ("argv.sha256", "file.sha256", "stdin.sha256", "stdin.json"):
        assert f"{{{name}" in items


def test_every_key_of_the_file_is_told() -> None:
    """guardrun-config(5) has each key that the file may have, and its value."""
    page = (MAN / "man5" / "guardrun-config.5").read_text()
    told = dict(re.findall(r"^\.It Ic (\w+) No = (.*)$", page, re.M))
    options = {
        name.replace("-", "_"): option
        for name, option in OPTIONS.items()
        if option.where != LINE_ONLY
    }
    assert list(told) == list(options)
    assert {name for name in told if told[name].startswith("Op ")} == {
        name for name, option in options.items() if option.repeatable
    }
    assert told["quiet"] == "Cm true Ns | Ns Cm false"
    assert {name for name, option in OPTIONS.items() if option.where == FILE_ONLY} <= set(told)


def test_the_file_that_is_shown_is_right(tmp_path: Path) -> None:
    """The example in guardrun-config(5) is a configuration file."""
    page = (MAN / "man5" / "guardrun-config.5").read_text()
    shown = re.findall(r"^(\[defaults\]\n.*?)^\.Ed", page, re.M | re.S)
    (tmp_path / "config.toml").write_text(shown[0])
    found = configfile.load(str(tmp_path / "config.toml"))
    assert {"backup", "report.sh"} == set(found.jobs)


def test_every_variable_is_told() -> None:
    """guardrun(1) has each variable that an option is read from, and where files are."""
    page = (MAN / "man1" / "guardrun.1").read_text()
    section = page.partition("\n.Sh ENVIRONMENT\n")[2].partition("\n.Sh ")[0]
    told = set(re.findall(r"(?:Ev |, )(GUARDRUN_\w+)", section))
    read = {option.environment for option in OPTIONS.values() if option.environment}
    assert read | {"GUARDRUN_STATE_DIR", "GUARDRUN_LOCK_DIR"} <= told
