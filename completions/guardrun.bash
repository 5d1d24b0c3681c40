# bash completion for guardrun                                  -*- shell-script -*-
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
        --lock-file)
            __guardrun_files
            ;;
        --scope)
            __guardrun_offer 'host distributed'
            ;;
        -w | --wait)
            __guardrun_offer 'forever'
            ;;
        --on-lease-loss)
            __guardrun_offer 'stop warn'
            ;;
        --on-duplicate)
            __guardrun_offer 'skip fail replay'
            ;;
        --on-interrupted)
            __guardrun_offer 'rerun stop'
            ;;
        --on-mismatch)
            __guardrun_offer 'fail ignore'
            ;;
        --jitter)
            __guardrun_offer 'full equal decorrelated'
            ;;
        --signal)
            __guardrun_offer 'TERM INT QUIT HUP USR1 USR2 KILL'
            ;;
        --stdin)
            __guardrun_offer 'inherit replay null'
            ;;
        --output)
            __guardrun_offer 'inherit json on-failure discard'
            ;;
        --ledger-url)
            __guardrun_offer 'none:'
            ;;
        --on-ledger-down)
            __guardrun_offer 'stop run'
            ;;
        --log-to)
            __guardrun_files
            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W 'stdout stderr none' -- "$cur")
            ;;
        --log-format)
            __guardrun_offer 'auto json console'
            ;;
        --log-level)
            __guardrun_offer 'debug info warning error'
            ;;
        --config)
            __guardrun_files
            ;;
        *) COMPREPLY=() ;;
    esac
}

# Offers what may follow the option $2 of the subcommand $1.
__guardrun_subcommand_value() {
    case $1:$2 in
        history:--result)
            __guardrun_offer 'running success failed skipped_duplicate timeout lock_busy lease_lost precondition_failed interrupted store_unavailable'
            ;;
        history:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        history:--config)
            __guardrun_files
            ;;
        show:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        show:--config)
            __guardrun_files
            ;;
        why:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        why:--config)
            __guardrun_files
            ;;
        locks:--scope)
            __guardrun_offer 'host distributed'
            ;;
        locks:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        locks:--config)
            __guardrun_files
            ;;
        unlock:--scope)
            __guardrun_offer 'host distributed'
            ;;
        unlock:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        unlock:--config)
            __guardrun_files
            ;;
        keys:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        keys:--config)
            __guardrun_files
            ;;
        keys:--state)
            __guardrun_offer 'running succeeded expired failed interrupted'
            ;;
        stats:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        stats:--config)
            __guardrun_files
            ;;
        metrics:--textfile)
            __guardrun_files
            ;;
        metrics:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        metrics:--config)
            __guardrun_files
            ;;
        dead:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        dead:--config)
            __guardrun_files
            ;;
        rerun:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        rerun:--config)
            __guardrun_files
            ;;
        flush:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        flush:--config)
            __guardrun_files
            ;;
        prune:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        prune:--config)
            __guardrun_files
            ;;
        migrate:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        migrate:--config)
            __guardrun_files
            ;;
        doctor:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        doctor:--config)
            __guardrun_files
            ;;
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
            --job | --command | --lock | --lock-file | --scope | --lease-url | --slots | --wait | --conflict-exit-code | --min-hold | --ttl | --claim-ttl | --on-lease-loss | --store-wait | --key | --key-ttl | --on-duplicate | --on-interrupted | --on-mismatch | --needs | --retries | --backoff | --jitter | --retry-on | --retry-budget | --success-codes | --timeout | --deadline | --signal | --kill-after | --splay | --stdin | --stdin-max | --output | --capture | --ledger-url | --record-wait | --on-ledger-down | --enqueued-at | --log-to | --log-format | --log-level | --metrics-textfile | --ping-url | --config) pending=$word ;;
            --*) ;;
            -?*)
                letters=${word#-}
                while [[ $letters ]]; do
                    case ${letters:0:1} in
                        [cjwEtk])
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
        -*) __guardrun_offer '--job -c --command --lock --lock-file --scope --lease-url -j --slots -s --shared -x --exclusive -w --wait -n --nonblock -E --conflict-exit-code --min-hold --ttl --claim-ttl --on-lease-loss --store-wait --key --key-ttl --on-duplicate --on-interrupted --on-mismatch --needs --retries --backoff --jitter --retry-on --retry-budget --success-codes -t --timeout --deadline --signal -k --kill-after --splay --stdin --stdin-max --output --capture --ledger-url --record-wait --on-ledger-down --enqueued-at --log-to --log-format --log-level -q --quiet --metrics-textfile --ping-url --config --dry-run -h --help --version' ;;
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
            history)
                __guardrun_subcommand history \
                    '--limit --job --key --result --since --until --json --ledger-url --config --help' '' '--limit --job --key --result --since --until --ledger-url --config'
                ;;
            show)
                __guardrun_subcommand show \
                    '--json --ledger-url --config --help' '' '--ledger-url --config'
                ;;
            why)
                __guardrun_subcommand why \
                    '--limit --json --ledger-url --config --help' '' '--limit --ledger-url --config'
                ;;
            locks)
                __guardrun_subcommand locks \
                    '--older-than --scope --json --lease-url --ledger-url --config --help' '' '--older-than --scope --lease-url --ledger-url --config'
                ;;
            unlock)
                __guardrun_subcommand unlock \
                    '--force --owner --scope --json --lease-url --ledger-url --config --help' '' '--owner --scope --lease-url --ledger-url --config'
                ;;
            keys)
                __guardrun_subcommand keys \
                    '--json --ledger-url --config --help --force --limit --state' 'show forget' '--ledger-url --config --limit --state'
                ;;
            stats)
                __guardrun_subcommand stats \
                    '--job --since --last --json --ledger-url --config --help' '' '--job --since --last --ledger-url --config'
                ;;
            metrics)
                __guardrun_subcommand metrics \
                    '--textfile --since --lease-url --ledger-url --config --help' '' '--textfile --since --lease-url --ledger-url --config'
                ;;
            dead)
                __guardrun_subcommand dead \
                    '--limit --job --since --json --ledger-url --config --help' '' '--limit --job --since --ledger-url --config'
                ;;
            rerun)
                __guardrun_subcommand rerun \
                    '--ledger-url --config --help' '' '--ledger-url --config'
                ;;
            flush)
                __guardrun_subcommand flush \
                    '--json --ledger-url --config --help' '' '--ledger-url --config'
                ;;
            prune)
                __guardrun_subcommand prune \
                    '--older-than --json --ledger-url --config --help' '' '--older-than --ledger-url --config'
                ;;
            migrate)
                __guardrun_subcommand migrate \
                    '--lease-url --json --ledger-url --config --help' '' '--lease-url --ledger-url --config'
                ;;
            doctor)
                __guardrun_subcommand doctor \
                    '--lease-url --json --ledger-url --config --help' '' '--lease-url --ledger-url --config'
                ;;
            *) __guardrun_run 1 ;;
        esac
    else
        local named
        mapfile -t named < <(compgen -W 'run history show why locks unlock keys stats metrics dead rerun flush prune migrate doctor' -- "$cur")
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
