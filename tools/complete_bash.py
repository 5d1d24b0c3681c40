"""The completion for bash; COMMAND's own words are left to bash-completion where that is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import surface
from surface import Subcommand, Switch

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
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

# Offers what may follow the run option $1.
__guardrun_value() {
    case $1 in
@VALUES@
        *) COMPREPLY=() ;;
    esac
}

# Offers what may follow the option $2 of the subcommand $1.
__guardrun_subcommand_value() {
    case $1:$2 in
@SUBCOMMAND_VALUES@
        *) COMPREPLY=() ;;
    esac
}

__guardrun_files() {
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
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

__guardrun_run() {
    local at=$1 word letters pending
    while ((at < last)); do
        word=${words[at]} pending=
        case $word in
            --)
                __guardrun_command $((at + 1))
                return
                ;;
            --*=*) ;;
            @VALUED@) pending=$word ;;
            --*) ;;
            -?*)
                letters=${word#-}
                while [[ $letters ]]; do
                    case ${letters:0:1} in
                        [@VALUED_LETTERS@])
                            [[ ${letters:1} ]] || pending=-$letters
                            break
                            ;;
                    esac
                    letters=${letters:1}
                done
                ;;
            *)
                __guardrun_command "$at"
                return
                ;;
        esac
        ((at += 1))
        if [[ $pending ]]; then
            ((at == last)) && {
                __guardrun_value "$pending"
                return
            }
            ((at += 1))
        fi
    done
    case $cur in
        --*=*)
            word=${cur%%=*} cur=${cur#*=}
            __guardrun_value "$word"
            prefix=$word=
            ;;
        -*) __guardrun_offer '@OPTIONS@' ;;
        *) __guardrun_command "$last" ;;
    esac
}

__guardrun_subcommand() {
    local name=$1 options=$2 arguments=$3 before=${words[last - 1]}
    case " $4 " in
        *" $before "*) __guardrun_subcommand_value "$name" "$before" ;;
        *)
            case $cur in
                --*=*)
                    before=${cur%%=*} cur=${cur#*=}
                    __guardrun_subcommand_value "$name" "$before"
                    prefix=$before=
                    ;;
                -*) __guardrun_offer "$options" ;;
                *) ((last == 2)) && __guardrun_offer "$arguments" ;;
            esac
            ;;
    esac
}

_guardrun() {
    local words places cur last prefix='' broken i
    __guardrun_split
    last=$((${#words[@]} - 1)) cur=${words[-1]}
    ((last)) || return
    COMPREPLY=()
    if ((last > 1)); then
        case ${words[1]} in
            run) __guardrun_run 2 ;;
@SUBCOMMANDS@
            *) __guardrun_run 1 ;;
        esac
    else
        local named
        mapfile -t named < <(compgen -W 'run @NAMES@' -- "$cur")
        __guardrun_run 1
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


def render() -> str:
    """The whole file."""
    switches = surface.run_switches()
    found = surface.subcommands()
    valued = [switch for switch in switches if switch.value]
    text = _TEMPLATE
    for name, filling in {
        "VALUES": _lines(_cases("", switches)),
        "SUBCOMMAND_VALUES": _lines(
            case for sub in found for case in _cases(f"{sub.name}:", _all_switches(sub))
        ),
        "VALUED": " | ".join(switch.names[-1] for switch in valued),
        "VALUED_LETTERS": "".join(
            switch.names[0][1:] for switch in valued if len(switch.names) > 1
        ),
        "OPTIONS": " ".join(_names(switches)),
        "SUBCOMMANDS": _lines(map(_subcommand, found)),
        "NAMES": " ".join(sub.name for sub in found),
    }.items():
        text = text.replace(f"@{name}@", filling)
    return text


def _cases(before: str, switches: Iterable[Switch]) -> Iterator[str]:
    for switch in switches:
        if switch.value is None:
            continue
        offers = []
        if switch.value.file:
            offers.append("__guardrun_files")
            if switch.value.words:
                words = " ".join(switch.value.words)
                offers.append(
                    f"mapfile -t -O ${{#COMPREPLY[@]}} COMPREPLY "
                    f"< <(compgen -W '{words}' -- \"$cur\")"
                )
        elif switch.value.words:
            offers.append(f"__guardrun_offer '{' '.join(switch.value.words)}'")
        if offers:
            pattern = " | ".join(before + name for name in switch.names)
            yield f"        {pattern})"
            yield from (f"            {offer}" for offer in offers)
            yield "            ;;"


def _subcommand(sub: Subcommand) -> str:
    switches = _all_switches(sub)
    options = " ".join(_names(switches))
    valued = " ".join(_names(switch for switch in switches if switch.value))
    children = " ".join(child.name for child in sub.children)
    return (
        f"            {sub.name})\n"
        f"                __guardrun_subcommand {sub.name} \\\n"
        f"                    '{options}' '{children}' '{valued}'\n"
        f"                ;;"
    )


def _all_switches(sub: Subcommand) -> tuple[Switch, ...]:
    """Its own, and those of its children; each once."""
    found = {switch.names: switch for child in sub.children for switch in child.switches}
    return tuple((found | {switch.names: switch for switch in sub.switches}).values())


def _names(switches: Iterable[Switch]) -> list[str]:
    return [name for switch in switches for name in switch.names]


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
