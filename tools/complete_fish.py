"""The completion for fish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import surface
from surface import Subcommand, Switch

_TEMPLATE = r"""# fish completion for guardrun
# Made by tools/generate.py from the table of options: change that, not this.

# Prints COMMAND and its words, as far as they stand before the cursor; fails while an option
# lacks its value.
function __guardrun_rest
    set -l words (commandline -opc)
    set -e words[1]
    test "$words[1]" = run; and set -e words[1]
    argparse -s @SPECS@ -- $words 2>/dev/null; or return
    set -q argv[1]; and printf '%s\n' $argv
    return 0
end

# Prints where the cursor is: the name of a subcommand, "command", or "options".
function __guardrun_place
    set -l words (commandline -opc)
    if contains -- "$words[2]" @NAMES@
        echo $words[2]
        return
    end
    set -l rest (__guardrun_rest)
    if test $status -eq 0; and begin
            set -q rest[1]; or contains -- -- $words
        end
        echo command
    else
        echo options
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
    test "$(__guardrun_place)" = options; and string match -q -- '-*' $token; and return
    complete -C (string join -- ' ' (string escape -- $rest) $token)
end

complete -c guardrun -f
complete -c guardrun -n '__guardrun_at options command' -a '(__guardrun_command)'
complete -c guardrun -n __guardrun_first -a run -d 'Run COMMAND under guard.'
@SUBCOMMANDS@

@OPTIONS@

@SUBCOMMAND_OPTIONS@
"""


def render() -> str:
    """The whole file."""
    found = surface.subcommands()
    switches = surface.run_switches()
    text = _TEMPLATE
    for name, filling in {
        "NAMES": " ".join(sub.name for sub in found),
        "SPECS": " ".join(map(_spec, switches)),
        "SUBCOMMANDS": _lines(
            f"complete -c guardrun -n __guardrun_first -a {sub.name} -d {_quoted(sub.help)}"
            for sub in found
        ),
        "OPTIONS": _lines(_completes("options", switches)),
        "SUBCOMMAND_OPTIONS": _lines(line for sub in found for line in _of(sub)),
    }.items():
        text = text.replace(f"@{name}@", filling)
    return text


def _spec(switch: Switch) -> str:
    """As fish's ``argparse`` reads it."""
    names = "/".join(name.lstrip("-") for name in switch.names)
    if switch.value is None:
        return names
    return f"{names}=+" if switch.repeatable else f"{names}="


def _of(sub: Subcommand) -> Iterator[str]:
    for child in sub.children:
        yield (
            f"complete -c guardrun -n '__guardrun_at {sub.name}' "
            f"-a {child.name} -d {_quoted(child.help)}"
        )
    switches = {switch.names: switch for child in sub.children for switch in child.switches}
    switches |= {switch.names: switch for switch in sub.switches}
    yield from _completes(sub.name, switches.values())


def _completes(place: str, switches: Iterable[Switch]) -> Iterator[str]:
    for switch in switches:
        words = ["complete -c guardrun", f"-n '__guardrun_at {place}'"]
        words += [
            f"-{'l' if name[:2] == '--' else 's'} {name.lstrip('-')}" for name in switch.names
        ]
        if switch.value:
            words.append("-rF" if switch.value.file else "-x")
            if switch.value.words:
                words.append(f"-a {_quoted(' '.join(switch.value.words))}")
        words.append(f"-d {_quoted(switch.help.partition('. ')[0].rstrip('.'))}")
        yield " ".join(words)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
