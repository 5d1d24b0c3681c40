"""The completion for fish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import surface
from surface import DIRECTORIES, FILES, Subcommand, Switch, Value

_TEMPLATE = r"""# fish completion for guardrun
# Made by tools/generate.py from the table of options: change that, not this.

# Prints COMMAND and its words, as far as they stand before the cursor; fails while an option
# lacks its value.
function __guardrun_rest
    set -l words (commandline -opc)
    set -e words[1]
    set -l specs @SPECS@
    switch "$words[1]"
        case run
            set -e words[1]@RESTS@
    end
    argparse -s $specs -- $words 2>/dev/null; or return
    set -q argv[1]; and printf '%s\n' $argv
    return 0
end

# Prints where the cursor is: the name of a subcommand, "command", or "options".
function __guardrun_place
    set -l words (commandline -opc)
    switch "$words[2]"@CHILDREN@
        case @PLAIN@
            echo $words[2]
            return
    end
    set -l rest (__guardrun_rest)
    if test $status -eq 0; and begin
            set -q rest[1]; or contains -- -- $words
        end
        echo command
    else
        contains -- "$words[2]" @TAKERS@; and echo $words[2]; or echo options
    end
end

function __guardrun_at
    contains -- (__guardrun_place) $argv
end

function __guardrun_first
    test (count (commandline -opc)) -eq 1
end

# Completes COMMAND as if it stood alone.
function __guardrun_command
    set -l rest (__guardrun_rest); or return
    set -l token (commandline -ct)
    test "$(__guardrun_place)" != command; and string match -q -- '-*' $token; and return
    complete -C (string join -- ' ' (string escape -- $rest) $token)
end

# Prints names of a kind: only guardrun knows them, in the stores that the line names.
function __guardrun_names
    set -l words (commandline -opc)
    set -l stores
    for i in (seq 2 (count $words))
        switch $words[$i]
            case '--ledger-url=*' '--lease-url=*' '--config=*'
                set -a stores $words[$i]
            case --ledger-url --lease-url --config
                set -a stores $words[$i..(math $i + 1)]
        end
    end
    set -l program (string replace -r '^~/' $HOME/ -- $words[1])
    $program completion --names $argv[1] $stores 2>/dev/null
end

# The same, unless it is an option that begins.
function __guardrun_argument
    string match -q -- '-*' (commandline -ct); or __guardrun_names $argv[1]
end

complete -c guardrun -f
complete -c guardrun -n '__guardrun_at @COMMANDS@' -a '(__guardrun_command)'
complete -c guardrun -n __guardrun_first -a run -d 'Run COMMAND under guard.'
@SUBCOMMANDS@

@OPTIONS@

@SUBCOMMAND_OPTIONS@
"""


def render() -> str:
    """The whole file."""
    found = surface.subcommands()
    run = surface.run_switches()
    takers = [sub for sub in found if sub.takes == "COMMAND"]
    takers_of_options = [f"{sub.name} options" for sub in found if sub.takes == "options"]
    text = _TEMPLATE
    for name, filling in {
        "RESTS": "".join(f"\n{line}" for sub in takers for line in _rest(sub)),
        "SPECS": " ".join(map(_spec, run)),
        "CHILDREN": "".join(f"\n{line}" for sub in found for line in _children(sub)),
        "PLAIN": " ".join(sub.name for sub in found if not (sub.children or sub.takes)),
        "TAKERS": " ".join(sub.name for sub in takers),
        "COMMANDS": " ".join(["options", "command", *(sub.name for sub in takers)]),
        "SUBCOMMANDS": _lines(
            f"complete -c guardrun -n __guardrun_first -a {sub.name} -d {_quoted(sub.help)}"
            for sub in found
        ),
        "OPTIONS": _lines(
            _complete(" ".join(map(_word, ["options", *takers_of_options])), switch)
            for switch in run
        ),
        "SUBCOMMAND_OPTIONS": _lines(
            line for sub in surface.with_children(found) for line in _of(sub)
        ),
    }.items():
        text = text.replace(f"@{name}@", filling)
    return text


def _rest(sub: Subcommand) -> Iterator[str]:
    yield f"        case {sub.name}"
    yield "            set -e words[1]"
    yield f"            set specs {_specs(sub)}"


def _children(sub: Subcommand) -> Iterator[str]:
    """How to tell the places below a subcommand."""
    if sub.children:
        names = " ".join(child.name.split()[-1] for child in sub.children)
        yield f"        case {sub.name}"
        yield f'            contains -- "$words[3]" {names}'
        yield f'            and echo "$words[2..3]"; or echo {sub.name}'
        yield "            return"
    elif sub.takes == "options":
        yield f"        case {sub.name}"
        yield f"            argparse -s {_specs(sub)} -- $words[3..] 2>/dev/null"
        yield f"            set -q argv[1]; and echo '{sub.name} options'; or echo {sub.name}"
        yield "            return"


def _specs(sub: Subcommand) -> str:
    return " ".join(map(_spec, sub.switches))


def _spec(switch: Switch) -> str:
    """As fish's ``argparse`` reads it."""
    names = "/".join(name.lstrip("-") for name in switch.names)
    if switch.value is None:
        return names
    return f"{names}=+" if switch.repeatable else f"{names}="


def _of(sub: Subcommand) -> Iterator[str]:
    place = _word(sub.name)
    for child in sub.children:
        yield (
            f"complete -c guardrun -n {_quoted(f'__guardrun_at {place}')} "
            f"-a {child.name.split()[-1]} -d {_quoted(child.help)}"
        )
    for value in sub.arguments:
        if value.words or value.offers:
            offered = " ".join(_offered(value, "__guardrun_argument"))
            yield f"complete -c guardrun -n {_quoted(f'__guardrun_at {place}')} {offered}"
    for switch in sub.switches:
        yield _complete(place, switch)


def _complete(places: str, switch: Switch) -> str:
    words = ["complete -c guardrun", f"-n {_quoted(f'__guardrun_at {places}')}"]
    words += [f"-{'l' if name[:2] == '--' else 's'} {name.lstrip('-')}" for name in switch.names]
    if switch.value:
        words.append("-r" if switch.value.offers == FILES else "-x")
        words += _offered(switch.value)
    words.append(f"-d {_quoted(switch.help.partition('. ')[0].rstrip('.'))}")
    return " ".join(words)


def _offered(value: Value, names: str = "__guardrun_names") -> Iterator[str]:
    if value.offers == FILES:
        yield "-F"
    if value.words:
        yield f"-a {_quoted(' '.join(value.words))}"
    if value.offers == DIRECTORIES:
        yield "-a '(__fish_complete_directories)'"
    elif value.offers not in ("", FILES):
        yield f"-a '({names} {value.offers})'"


def _word(text: str) -> str:
    return f'"{text}"' if " " in text else text


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
