"""The completion for zsh, by its ``_arguments``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import surface
from surface import DIRECTORIES, FILES, Subcommand, Switch, Value

_TEMPLATE = r"""#compdef guardrun
# Made by tools/generate.py from the table of options: change that, not this.

# Offers names of the kind $1: only guardrun knows them, in the stores that the line names.
_guardrun_names() {
  [[ $PREFIX == -* ]] && return 1
  local -a names stores
  while (( $#typed )); do
    case $typed[1] in
      --(ledger-url|lease-url|config)=*) stores+=( $typed[1] ) ;;
      --(ledger-url|lease-url|config)) stores+=( $typed[1,2] ) ;;
    esac
    shift typed
  done
  # _call_program evaluates its words: nothing that was typed may be executed.
  program=${${(Q)program}/#\~\//$HOME/}
  stores=( ${(q)${(Q)stores}} )
  names=( ${(f)"$(_call_program names ${(q)program} completion --names $1 $stores 2>/dev/null)"} )
  names=( ${${names//:/\\:}/$'\t'/:} )
  _describe -t $1 ${1%s} names
}

@SUBCOMMAND_FUNCTIONS@

_guardrun() {
  local program=$words[1]
  local -a typed=( $words[2,CURRENT-1] )
  local -a subcommands options
  local curcontext=$curcontext state line ret=1
  local -A opt_args
  subcommands=(
    'run:Run COMMAND under guard.'
@SUBCOMMANDS@
  )
  options=(
@OPTIONS@
  )
  # A subcommand is one as the very first word only.
  local first=$(( CURRENT == 2 ))
  if (( CURRENT > 2 )); then
    case $words[2] in
      run) words[2]=() ; (( CURRENT-- )) ;;
@CASES@
    esac
  fi
  _arguments -C -s -S -A '-*' $options '(-)1: :->command' '*:: :->words' && ret=0
  case $state in
    command)
      (( first )) && _describe -t subcommands subcommand subcommands && ret=0
      _command_names -e && ret=0
      ;;
    words) _normal -p guardrun && ret=0 ;;
  esac
  return ret
}

_guardrun "$@"
"""


def render() -> str:
    """The whole file."""
    found = surface.subcommands()
    text = _TEMPLATE
    for name, filling in {
        "SUBCOMMAND_FUNCTIONS": "\n\n".join(map(_function, found)),
        "SUBCOMMANDS": _lines(f"    {_quoted(f'{sub.name}:{sub.help}')}" for sub in found),
        "OPTIONS": _lines(_specs(surface.run_switches(), "    ")),
        "CASES": _lines(
            f"      {sub.name}) words[1]=() ; (( CURRENT-- )) ; _guardrun-{sub.name} ; return ;;"
            for sub in found
        ),
    }.items():
        text = text.replace(f"@{name}@", filling)
    return text


def _function(sub: Subcommand) -> str:
    """What completes the words of one subcommand, of which its name is the first."""
    if sub.children:
        return _group(sub)
    states = {"COMMAND": _THEN_COMMAND, "options": _THEN_OPTIONS}.get(sub.takes)
    if states is None:
        arguments = enumerate(sub.arguments, 1)
        specs = [_quoted(f"{number}{_action(value)}") for number, value in arguments]
        return f"{_named(sub)} {{\n{_arguments('-s -S', sub.switches, specs)}\n}}"
    first = "'(-)1: :->command'"
    if sub.takes == "options":
        first = _quoted(f"1{_action(sub.arguments[0])}")
    called = _arguments("-C -s -S -A '-*'", sub.switches, [first, "'*:: :->words'"])
    return f"{_named(sub)} {{\n{called} && return\n{states}\n}}"


_THEN_COMMAND = """\
  case $state in
    command) _command_names -e ;;
    words) _normal -p guardrun ;;
  esac"""

# RUN is the first of the words now, in the place of a command.
_THEN_OPTIONS = "  [[ $state == words ]] && _arguments -s -S $options"


def _group(sub: Subcommand) -> str:
    inner = "\n\n".join(map(_function, sub.children))
    names = _lines(
        f"    {_quoted(f'{child.name.split()[-1]}:{child.help}')}" for child in sub.children
    )
    function = _named(sub).removesuffix("()")
    return (
        f"{inner}\n\n"
        f"{_named(sub)} {{\n"
        f"  local -a children\n"
        f"  children=(\n{names}\n  )\n"
        f"  if (( CURRENT > 2 )) && (( $+functions[{function}-$words[2]] )); then\n"
        f"    words[1]=() ; (( CURRENT-- )) ; {function}-$words[1]\n"
        f"    return\n"
        f"  fi\n"
        f"  (( CURRENT == 2 )) && _describe -t subcommands subcommand children\n"
        f"{_arguments('-s -S', sub.switches, [])}\n"
        f"}}"
    )


def _named(sub: Subcommand) -> str:
    return f"_guardrun-{'-'.join(sub.name.split())}()"


def _arguments(flags: str, switches: Iterable[Switch], more: Iterable[str]) -> str:
    lines = [f"  _arguments {flags}", *_specs(switches, "    "), *(f"    {one}" for one in more)]
    return " \\\n".join(lines)


def _specs(switches: Iterable[Switch], indent: str) -> Iterator[str]:
    """One specification an option, as ``_arguments`` reads it."""
    for switch in switches:
        explained = f"[{_plain(switch.help)}]"
        action = _action(switch.value) if switch.value else ""
        written = [_spelled(name, switch.value) for name in switch.names]
        if switch.repeatable:
            yield indent + " ".join(_quoted(f"*{word}{explained}{action}") for word in written)
        elif len(written) == 1:
            yield indent + _quoted(f"{written[0]}{explained}{action}")
        else:
            others = _quoted(f"({' '.join(switch.names)})")
            yield f"{indent}{others}{{{','.join(written)}}}{_quoted(explained + action)}"


def _spelled(name: str, value: Value | None) -> str:
    """The value may be attached, or be the next word."""
    if value is None:
        return name
    return f"{name}=" if name.startswith("--") else f"{name}+"


def _action(value: Value) -> str:
    words = " ".join(map(_no_colon, value.words))
    if value.offers == FILES and value.words:
        what = f'_alternative "words\\:word\\:({words})" "files\\:file\\:_files"'
    elif value.offers == FILES:
        what = "_files"
    elif value.offers == DIRECTORIES:
        what = "_directories"
    elif value.offers:
        # After a space: it offers by itself, and takes no words for compadd.
        what = f" _guardrun_names {value.offers}"
    elif value.words:
        what = f"({words})"
    else:
        what = " "
    return f":{_no_colon(value.metavar)}:{what}"


def _no_colon(text: str) -> str:
    return text.replace(":", r"\:")


def _plain(text: str) -> str:
    """The first sentence, with what ``_arguments`` would read as its own escaped."""
    sentence = text.partition(". ")[0].rstrip(".")
    return "".join(f"\\{char}" if char in r"[]:\\" else char for char in sentence)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
