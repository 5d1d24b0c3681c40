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
        run)
            options='--job -c --command --lock --lock-file --scope --lease-url -j --slots -s --shared -x --exclusive -w --wait -n --nonblock -E --conflict-exit-code --min-hold --ttl --claim-ttl --on-lease-loss --store-wait --key --key-ttl --on-duplicate --on-interrupted --on-mismatch --needs --retries --backoff --jitter --retry-on --retry-budget --success-codes -t --timeout --deadline --signal -k --kill-after --splay --stdin --stdin-max --output --capture --ledger-url --record-wait --on-ledger-down --enqueued-at --log-to --log-format --log-level -q --quiet --metrics-textfile --ping-url --config --dry-run -h --help --version'
            valued='--job -c --command --lock --lock-file --scope --lease-url -j --slots -w --wait -E --conflict-exit-code --min-hold --ttl --claim-ttl --on-lease-loss --store-wait --key --key-ttl --on-duplicate --on-interrupted --on-mismatch --needs --retries --backoff --jitter --retry-on --retry-budget --success-codes -t --timeout --deadline --signal -k --kill-after --splay --stdin --stdin-max --output --capture --ledger-url --record-wait --on-ledger-down --enqueued-at --log-to --log-format --log-level --metrics-textfile --ping-url --config' after=command
            ;;
        history)
            options='--limit --job --key --result --since --until --json --ledger-url --config --help'
            valued='--limit --job --key --result --since --until --ledger-url --config' after=
            ;;
        show)
            options='--json --ledger-url --config --help'
            valued='--ledger-url --config' after=
            ;;
        why)
            options='--limit --json --ledger-url --config --help'
            valued='--limit --ledger-url --config' after=
            ;;
        locks)
            options='--older-than --scope --json --lease-url --ledger-url --config --help'
            valued='--older-than --scope --lease-url --ledger-url --config' after=
            ;;
        unlock)
            options='--force --owner --scope --json --lease-url --ledger-url --config --help'
            valued='--owner --scope --lease-url --ledger-url --config' after=
            ;;
        keys)
            options='--limit --state --json --ledger-url --config --help'
            valued='--limit --state --ledger-url --config' after=
            ;;
        'keys show')
            options='--json --ledger-url --config --help'
            valued='--ledger-url --config' after=
            ;;
        'keys forget')
            options='--force --ledger-url --config --help'
            valued='--ledger-url --config' after=
            ;;
        stats)
            options='--job --since --last --json --ledger-url --config --help'
            valued='--job --since --last --ledger-url --config' after=
            ;;
        metrics)
            options='--textfile --since --lease-url --ledger-url --config --help'
            valued='--textfile --since --lease-url --ledger-url --config' after=
            ;;
        dead)
            options='--limit --job --since --json --ledger-url --config --help'
            valued='--limit --job --since --ledger-url --config' after=
            ;;
        rerun)
            options='--ledger-url --config --help'
            valued='--ledger-url --config' after=rerun-options
            ;;
        rerun-options)
            options='--job -c --command --lock --lock-file --scope --lease-url -j --slots -s --shared -x --exclusive -w --wait -n --nonblock -E --conflict-exit-code --min-hold --ttl --claim-ttl --on-lease-loss --store-wait --key --key-ttl --on-duplicate --on-interrupted --on-mismatch --needs --retries --backoff --jitter --retry-on --retry-budget --success-codes -t --timeout --deadline --signal -k --kill-after --splay --stdin --stdin-max --output --capture --ledger-url --record-wait --on-ledger-down --enqueued-at --log-to --log-format --log-level -q --quiet --metrics-textfile --ping-url --config --dry-run -h --help --version'
            valued='--job -c --command --lock --lock-file --scope --lease-url -j --slots -w --wait -E --conflict-exit-code --min-hold --ttl --claim-ttl --on-lease-loss --store-wait --key --key-ttl --on-duplicate --on-interrupted --on-mismatch --needs --retries --backoff --jitter --retry-on --retry-budget --success-codes -t --timeout --deadline --signal -k --kill-after --splay --stdin --stdin-max --output --capture --ledger-url --record-wait --on-ledger-down --enqueued-at --log-to --log-format --log-level --metrics-textfile --ping-url --config' after=
            ;;
        each)
            options='-P --parallel -0 --null --jsonl --halt-after --keep-order --tag --job -c --command --lock --lock-file --scope --lease-url -j --slots -s --shared -x --exclusive -w --wait -n --nonblock -E --conflict-exit-code --min-hold --ttl --claim-ttl --on-lease-loss --store-wait --key --key-ttl --on-duplicate --on-interrupted --on-mismatch --needs --retries --backoff --jitter --retry-on --retry-budget --success-codes -t --timeout --deadline --signal -k --kill-after --splay --stdin --stdin-max --output --capture --ledger-url --record-wait --on-ledger-down --enqueued-at --log-to --log-format --log-level -q --quiet --metrics-textfile --ping-url --config --dry-run -h --help --version'
            valued='-P --parallel --halt-after --job -c --command --lock --lock-file --scope --lease-url -j --slots -w --wait -E --conflict-exit-code --min-hold --ttl --claim-ttl --on-lease-loss --store-wait --key --key-ttl --on-duplicate --on-interrupted --on-mismatch --needs --retries --backoff --jitter --retry-on --retry-budget --success-codes -t --timeout --deadline --signal -k --kill-after --splay --stdin --stdin-max --output --capture --ledger-url --record-wait --on-ledger-down --enqueued-at --log-to --log-format --log-level --metrics-textfile --ping-url --config' after=command
            ;;
        flush)
            options='--json --ledger-url --config --help'
            valued='--ledger-url --config' after=
            ;;
        prune)
            options='--older-than --json --ledger-url --config --help'
            valued='--older-than --ledger-url --config' after=
            ;;
        migrate)
            options='--lease-url --json --ledger-url --config --help'
            valued='--lease-url --ledger-url --config' after=
            ;;
        doctor)
            options='--lease-url --json --ledger-url --config --help'
            valued='--lease-url --ledger-url --config' after=
            ;;
        completion)
            options='--names --lease-url --ledger-url --config --help'
            valued='--names --lease-url --ledger-url --config' after=
            ;;
        adopt)
            options='--format --names --program --write --ledger-url --config --help'
            valued='--format --program --ledger-url --config' after=
            ;;
    esac
}

# Offers what may follow the option $2 at the place $1.
__guardrun_value() {
    case $1:$2 in
        *:--job)
            __guardrun_names jobs
            ;;
        *:--lock-file | *:--config | *:--textfile | *:--program)
            __guardrun_files
            ;;
        *:--scope)
            __guardrun_offer 'host distributed'
            ;;
        *:-w | *:--wait)
            __guardrun_offer 'forever'
            ;;
        *:--on-lease-loss)
            __guardrun_offer 'stop warn'
            ;;
        history:--key)
            __guardrun_names keys
            ;;
        *:--on-duplicate)
            __guardrun_offer 'skip fail replay'
            ;;
        *:--on-interrupted)
            __guardrun_offer 'rerun stop'
            ;;
        *:--on-mismatch)
            __guardrun_offer 'fail ignore'
            ;;
        *:--jitter)
            __guardrun_offer 'full equal decorrelated'
            ;;
        *:--signal)
            __guardrun_offer 'TERM INT QUIT HUP USR1 USR2 KILL'
            ;;
        *:--stdin)
            __guardrun_offer 'inherit replay null'
            ;;
        *:--output)
            __guardrun_offer 'inherit json on-failure discard'
            ;;
        *:--ledger-url)
            __guardrun_offer 'none:'
            ;;
        *:--on-ledger-down)
            __guardrun_offer 'stop run'
            ;;
        *:--log-to)
            __guardrun_offer 'stdout stderr none'
            __guardrun_files
            ;;
        *:--log-format)
            __guardrun_offer 'auto json console'
            ;;
        *:--log-level)
            __guardrun_offer 'debug info warning error'
            ;;
        *:--metrics-textfile)
            __guardrun_files -d
            ;;
        *:--result)
            __guardrun_offer 'running success failed skipped_duplicate timeout lock_busy lease_lost precondition_failed interrupted store_unavailable'
            ;;
        *:--state)
            __guardrun_offer 'running succeeded expired failed interrupted'
            ;;
        completion:--names)
            __guardrun_offer 'jobs keys locks runs'
            ;;
        *:--format)
            __guardrun_offer 'auto user system unit'
            ;;
    esac
}

# Offers what may be the argument number $2 at the place $1.
__guardrun_argument() {
    case $1:$2 in
        show:1 | rerun:1)
            __guardrun_names runs
            ;;
        why:1)
            __guardrun_names jobs
            ;;
        unlock:1)
            __guardrun_names locks
            ;;
        keys:1)
            __guardrun_offer 'show forget'
            ;;
        'keys show:1' | 'keys forget:1')
            __guardrun_names keys
            ;;
        completion:1)
            __guardrun_offer 'bash zsh fish'
            ;;
        adopt:1)
            __guardrun_files
            ;;
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
            history) __guardrun_walk history 2 ;;
            show) __guardrun_walk show 2 ;;
            why) __guardrun_walk why 2 ;;
            locks) __guardrun_walk locks 2 ;;
            unlock) __guardrun_walk unlock 2 ;;
            keys)
                case $((last > 2)):${words[2]} in
                    1:show | 1:forget) __guardrun_walk "keys ${words[2]}" 3 ;;
                    *) __guardrun_walk keys 2 ;;
                esac
                ;;
            stats) __guardrun_walk stats 2 ;;
            metrics) __guardrun_walk metrics 2 ;;
            dead) __guardrun_walk dead 2 ;;
            rerun) __guardrun_walk rerun 2 ;;
            each) __guardrun_walk each 2 ;;
            flush) __guardrun_walk flush 2 ;;
            prune) __guardrun_walk prune 2 ;;
            migrate) __guardrun_walk migrate 2 ;;
            doctor) __guardrun_walk doctor 2 ;;
            completion) __guardrun_walk completion 2 ;;
            adopt) __guardrun_walk adopt 2 ;;
            *) __guardrun_walk run 1 ;;
        esac
    else
        local named
        mapfile -t named < <(compgen -W 'run history show why locks unlock keys stats metrics dead rerun each flush prune migrate doctor completion adopt' -- "$cur")
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
