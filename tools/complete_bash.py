"""The completion for bash; COMMAND's own words are left to bash-completion where that is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import surface
from surface import DIRECTORIES, FILES, Subcommand, Switch, Value

_TEMPLATE = r"""# bash completion for guardrun                                  -*- shell-script -*-
# Made by tools/generate.py from the table of options: change that, not this.

# Sets words to those before the cursor, with what readline splits at = and : put together again,
# and places to where each of them begins in COMP_WORDS.
__guardrun_split() {
    local rest=${COMP_LINE:0:COMP_POINT} trimmed word i
    words=() places=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        trimmed=${rest#"${rest%%[![:space:]]*}"}
        word=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && word=$trimmed
        if ((i)) && [[ $rest == "$trimmed" ]]; then
            words[-1]+=$word
        else
            words+=("$word") places+=("$i")
        fi
        rest=${trimmed:${#word}}
    done
}

# Offers the words of $1.
__guardrun_offer() {
    local found
    mapfile -t found < <(compgen -W "$1" -- "$cur")
    COMPREPLY+=("${found[@]}")
}

# Offers files, or what else compgen finds by $1.
__guardrun_files() {
    local found
    compopt -o filenames
    mapfile -t found < <(compgen "${1--f}" -- "$cur")
    COMPREPLY+=("${found[@]}")
}

# Offers the names of the kind $1: only guardrun knows them, in the stores that the line names.
__guardrun_names() {
    local name begun=${cur#[\"\']} i stores=()
    for ((i = 1; i < last; i++)); do
        case ${words[i]} in
            --ledger-url=* | --lease-url=* | --config=*) stores+=("${words[i]}") ;;
            --ledger-url | --lease-url | --config) stores+=("${words[i]}" "${words[i + 1]}") ;;
        esac
    done
    [[ $begun != "$cur" ]] || begun=${cur//\\/}
    while IFS=$'\t' read -r name _; do
        [[ $name == "$begun"* ]] || continue
        [[ $cur == [\"\']* ]] || printf -v name %q "$name"
        COMPREPLY+=("$name")
    done < <("${words[0]/#\~\//$HOME/}" completion --names "$1" "${stores[@]}" 2>/dev/null)
}

# Sets what is taken at the place $1: options, those of them that take a value, and what comes
# after the arguments.
__guardrun_know() {
    case $1 in
@PLACES@
    esac
}

# Offers what may follow the option $2 at the place $1.
__guardrun_value() {
    case $1:$2 in
@VALUES@
    esac
}

# Offers what may be the argument number $2 at the place $1.
__guardrun_argument() {
    case $1:$2 in
@ARGUMENTS@
    esac
}

# COMMAND is the word $1: completes it, or its own words.
__guardrun_command() {
    local place=${places[$1]} words=("${words[@]}")
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$place"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$place"
    elif (($1 == last)) && [[ $cur != */* ]]; then
        mapfile -t COMPREPLY < <(compgen -c -- "$cur")
    else
        __guardrun_files
    fi
}

# Goes through the words from $2 on, which are those of the place $1, and completes the last.
__guardrun_walk() {
    local place=$1 at=$2 number=1 word letters pending ended options valued after
    __guardrun_know "$place"
    while ((at < last)); do
        word=${words[at]} pending=
        ((at += 1))
        if [[ $word == -- && ! $ended ]]; then
            ended=1
            [[ $after == command ]] || continue
            __guardrun_command "$at"
            return
        elif [[ $ended || $word != -?* ]]; then
            if [[ $after == command ]]; then
                __guardrun_command $((at - 1))
                return
            fi
            ((number += 1))
            [[ $after ]] && place=$after number=1 && __guardrun_know "$place"
        elif [[ $word == --* ]]; then
            [[ " $valued " == *" $word "* ]] && pending=$word
        else
            letters=${word#-}
            while [[ $letters ]]; do
                if [[ " $valued " == *" -${letters:0:1} "* ]]; then
                    [[ ${letters:1} ]] || pending=-$letters
                    break
                fi
                letters=${letters:1}
            done
        fi
        if [[ $pending ]]; then
            if ((at == last)); then
                __guardrun_value "$place" "$pending"
                return
            fi
            ((at += 1))
        fi
    done
    if [[ $ended ]]; then
        __guardrun_argument "$place" "$number"
    elif [[ $cur == --*=* ]]; then
        prefix=${cur%%=*}= cur=${cur#*=}
        __guardrun_value "$place" "${prefix%=}"
    elif [[ $cur == -* ]]; then
        __guardrun_offer "$options"
    elif [[ $after == command ]]; then
        __guardrun_command "$last"
    else
        __guardrun_argument "$place" "$number"
    fi
}

_guardrun() {
    local words places cur last prefix='' broken i
    __guardrun_split
    last=$((${#words[@]} - 1)) cur=${words[-1]}
    ((last)) || return
    COMPREPLY=()
    if ((last > 1)); then
        case ${words[1]} in
            run) __guardrun_walk run 2 ;;
@SUBCOMMANDS@
            *) __guardrun_walk run 1 ;;
        esac
    else
        local named
        mapfile -t named < <(compgen -W 'run @NAMES@' -- "$cur")
        __guardrun_walk run 1
        COMPREPLY=("${named[@]}" "${COMPREPLY[@]}")
    fi
    # readline replaces only what follows the last = or :
    broken=${words[-1]%"${words[-1]##*[=:]}"}
    [[ $COMP_WORDBREAKS == *=* ]] || broken=${broken%"${broken##*:}"}
    [[ $COMP_WORDBREAKS == *:* ]] || broken=${broken%"${broken##*=}"}
    for i in "${!COMPREPLY[@]}"; do
        COMPREPLY[i]=$prefix${COMPREPLY[i]}
        COMPREPLY[i]=${COMPREPLY[i]#"$broken"}
    done
}

complete -F _guardrun guardrun
"""


class _Place(NamedTuple):
    """Where a word may stand, and so what it may be."""

    name: str
    switches: tuple[Switch, ...]
    arguments: tuple[Value, ...] = ()
    after: str = ""
    """what comes once the first argument has been given: ``command``, or the name of a place"""


def render() -> str:
    """The whole file."""
    found = surface.subcommands()
    places = tuple(_places(found))
    text = _TEMPLATE
    for name, filling in {
        "PLACES": _lines(line for place in places for line in _known(place)),
        "VALUES": _lines(_cases(_values(places))),
        "ARGUMENTS": _lines(_cases(_arguments(places))),
        "SUBCOMMANDS": _lines(line for sub in found for line in _dispatch(sub)),
        "NAMES": " ".join(sub.name for sub in found),
    }.items():
        text = text.replace(f"@{name}@", filling)
    return text


def _places(found: Iterable[Subcommand]) -> Iterator[_Place]:
    run = surface.run_switches()
    yield _Place("run", run, after="command")
    for sub in surface.with_children(found):
        arguments = sub.arguments
        if sub.children:
            arguments = (Value("", tuple(child.name.split()[-1] for child in sub.children)),)
        if sub.takes == "COMMAND":
            yield _Place(sub.name, sub.switches, after="command")
        elif sub.takes == "options":
            yield _Place(sub.name, sub.switches, arguments[:1], f"{sub.name}-options")
            yield _Place(f"{sub.name}-options", run)
        else:
            yield _Place(sub.name, sub.switches, arguments)


def _known(place: _Place) -> Iterator[str]:
    valued = _names(switch for switch in place.switches if switch.value)
    yield f"        {_word(place.name)})"
    yield f"            options='{' '.join(_names(place.switches))}'"
    yield f"            valued='{' '.join(valued)}' after={place.after}"
    yield "            ;;"


def _values(places: Iterable[_Place]) -> dict[str, Value]:
    """By pattern; the place does not matter for an option that takes the same at each."""
    found: dict[str, dict[str, Value]] = {}
    for place in places:
        for switch in place.switches:
            for name in switch.names:
                found.setdefault(name, {})[place.name] = switch.value or Value("")
    patterns = {}
    for name, by_place in found.items():
        if len({_offers(value) for value in by_place.values()}) == 1:
            patterns[f"*:{name}"] = next(iter(by_place.values()))
        else:
            patterns |= {_word(f"{place}:{name}"): value for place, value in by_place.items()}
    return patterns


def _arguments(places: Iterable[_Place]) -> dict[str, Value]:
    return {
        _word(f"{place.name}:{number}"): value
        for place in places
        for number, value in enumerate(place.arguments, 1)
    }


def _cases(values: dict[str, Value]) -> Iterator[str]:
    """One branch for all that offer the same."""
    patterns: dict[tuple[str, ...], list[str]] = {}
    for pattern, value in values.items():
        patterns.setdefault(_offers(value), []).append(pattern)
    patterns.pop((), None)
    for offers, same in patterns.items():
        yield f"        {' | '.join(same)})"
        yield from (f"            {offer}" for offer in offers)
        yield "            ;;"


def _offers(value: Value) -> tuple[str, ...]:
    """The calls that offer what a value may be."""
    calls = [f"__guardrun_offer '{' '.join(value.words)}'"] if value.words else []
    if value.offers == FILES:
        calls.append("__guardrun_files")
    elif value.offers == DIRECTORIES:
        calls.append("__guardrun_files -d")
    elif value.offers:
        calls.append(f"__guardrun_names {value.offers}")
    return tuple(calls)


def _dispatch(sub: Subcommand) -> Iterator[str]:
    if not sub.children:
        yield f"            {sub.name}) __guardrun_walk {sub.name} 2 ;;"
        return
    yield f"            {sub.name})"
    yield "                case $((last > 2)):${words[2]} in"
    below = " | ".join(f"1:{child.name.split()[-1]}" for child in sub.children)
    yield f'                    {below}) __guardrun_walk "{sub.name} ${{words[2]}}" 3 ;;'
    yield f"                    *) __guardrun_walk {sub.name} 2 ;;"
    yield "                esac"
    yield "                ;;"


def _names(switches: Iterable[Switch]) -> list[str]:
    return [name for switch in switches for name in switch.names]


def _word(text: str) -> str:
    return f"'{text}'" if " " in text else text


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
