# fish completion for guardrun
# Made by tools/generate.py from the table of options: change that, not this.

# Prints COMMAND and its words, as far as they stand before the cursor; fails while an option
# lacks its value.
function __guardrun_rest
    set -l words (commandline -opc)
    set -e words[1]
    set -l specs job= c/command= lock= lock-file= scope= lease-url= j/slots= s/shared x/exclusive w/wait= n/nonblock E/conflict-exit-code= min-hold= ttl= claim-ttl= on-lease-loss= store-wait= key= key-ttl= on-duplicate= on-interrupted= on-mismatch= needs=+ retries= backoff= jitter= retry-on= retry-budget= success-codes= t/timeout= deadline= signal= k/kill-after= splay= stdin= stdin-max= output= capture= ledger-url= record-wait= on-ledger-down= enqueued-at= log-to= log-format= log-level= q/quiet metrics-textfile= ping-url= config= dry-run h/help version
    switch "$words[1]"
        case run
            set -e words[1]
        case each
            set -e words[1]
            set specs P/parallel= 0/null jsonl halt-after= keep-order tag job= c/command= lock= lock-file= scope= lease-url= j/slots= s/shared x/exclusive w/wait= n/nonblock E/conflict-exit-code= min-hold= ttl= claim-ttl= on-lease-loss= store-wait= key= key-ttl= on-duplicate= on-interrupted= on-mismatch= needs=+ retries= backoff= jitter= retry-on= retry-budget= success-codes= t/timeout= deadline= signal= k/kill-after= splay= stdin= stdin-max= output= capture= ledger-url= record-wait= on-ledger-down= enqueued-at= log-to= log-format= log-level= q/quiet metrics-textfile= ping-url= config= dry-run h/help version
    end
    argparse -s $specs -- $words 2>/dev/null; or return
    set -q argv[1]; and printf '%s\n' $argv
    return 0
end

# Prints where the cursor is: the name of a subcommand, "command", or "options".
function __guardrun_place
    set -l words (commandline -opc)
    switch "$words[2]"
        case keys
            contains -- "$words[3]" show forget
            and echo "$words[2..3]"; or echo keys
            return
        case rerun
            argparse -s ledger-url= config= help -- $words[3..] 2>/dev/null
            set -q argv[1]; and echo 'rerun options'; or echo rerun
            return
        case history show why locks unlock stats metrics dead flush prune migrate doctor completion adopt
            echo $words[2]
            return
    end
    set -l rest (__guardrun_rest)
    if test $status -eq 0; and begin
            set -q rest[1]; or contains -- -- $words
        end
        echo command
    else
        contains -- "$words[2]" each; and echo $words[2]; or echo options
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
complete -c guardrun -n '__guardrun_at options command each' -a '(__guardrun_command)'
complete -c guardrun -n __guardrun_first -a run -d 'Run COMMAND under guard.'
complete -c guardrun -n __guardrun_first -a history -d 'Show what ran, newest first.'
complete -c guardrun -n __guardrun_first -a show -d 'Show one run with its attempts and its captured output.'
complete -c guardrun -n __guardrun_first -a why -d 'Say in sentences what became of the last runs of JOB, and why.'
complete -c guardrun -n __guardrun_first -a locks -d 'Show the locks that are held now, the oldest first, and who holds them.'
complete -c guardrun -n __guardrun_first -a unlock -d 'Take a lock away from its holders, and raise its fencing token.'
complete -c guardrun -n __guardrun_first -a keys -d 'Show the idempotency keys, the latest claimed first.'
complete -c guardrun -n __guardrun_first -a stats -d 'Show per job: runs, success, durations, waits, retries, lock failures, duplicates.'
complete -c guardrun -n __guardrun_first -a metrics -d 'Print metrics of runs, locks and spool in Prometheus\' text format.'
complete -c guardrun -n __guardrun_first -a dead -d 'Show the runs that failed for good, newest first.'
complete -c guardrun -n __guardrun_first -a rerun -d 'Run the recorded COMMAND of RUN again, under its job, lock, key and needs.'
complete -c guardrun -n __guardrun_first -a each -d 'Run COMMAND for every item that stdin names, at most N at a time.'
complete -c guardrun -n __guardrun_first -a flush -d 'Record the outcomes that wait in the spool for this ledger.'
complete -c guardrun -n __guardrun_first -a prune -d 'Delete old runs and keys; never a running one, nor a key that still blocks.'
complete -c guardrun -n __guardrun_first -a migrate -d 'Create the schema guardrun in the Postgres of ledger and leases, or bring it up to date.'
complete -c guardrun -n __guardrun_first -a doctor -d 'Look at configuration, stores, directories, spool and crontabs; say what to do.'
complete -c guardrun -n __guardrun_first -a completion -d 'Print the completion for a shell, as it was installed.'
complete -c guardrun -n __guardrun_first -a adopt -d 'Print a crontab or a unit file with guardrun for flock, timeout and chronic.'

complete -c guardrun -n '__guardrun_at options "rerun options"' -l job -x -a '(__guardrun_names jobs)' -d 'What the run is called in the ledger, logs and metrics'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s c -l command -x -d 'Run /bin/sh -c STRING; further words are an error'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l lock -x -d 'Name of the lock held while COMMAND runs'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l lock-file -r -F -d 'Lock this very file or directory, as flock(1) does'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l scope -x -a 'host distributed' -d 'A lock of this host, or a lease in the lease store; implied by --lease-url'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l lease-url -x -d 'Where leases are kept: redis, rediss, redis+sentinel, rediss+sentinel, unix, postgresql, postgresql+advisory, etcd, etcds, consul or consuls'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s j -l slots -x -d 'Up to N holders at once'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s s -l shared -d 'Share the lock with other readers; host scope only'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s x -l exclusive -d 'Hold the lock alone; the default'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s w -l wait -x -a 'forever' -d 'How long to wait for a busy lock, and then for a key another run holds'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s n -l nonblock -d 'Do not wait: --wait 0'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s E -l conflict-exit-code -x -d 'Exit code when the lock is busy'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l min-hold -x -d 'Keep the lock taken at least this long from its acquisition, even when COMMAND ends earlier'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l ttl -x -d 'Time to live of a lease, 10s to 24h; it is renewed every quarter of that'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l claim-ttl -x -d 'Time to live of a key\'s claim in Postgres, 10s to 24h; renewed like a lease'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l on-lease-loss -x -a 'stop warn' -d 'What happens to COMMAND when the lease is no longer proved to be held'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l store-wait -x -d 'How long an unreachable store is tried again before it counts as down'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l key -x -d 'Idempotency key: at most one successful run per key'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l key-ttl -x -d 'How long this run\'s success keeps the key blocked'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l on-duplicate -x -a 'skip fail replay' -d 'The key already succeeded: exit 0, exit 76, or write its stored output again'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l on-interrupted -x -a 'rerun stop' -d 'The key\'s last run was cut off: run again, or exit 76 until a person decides'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l on-mismatch -x -a 'fail ignore' -d 'The key was used with another COMMAND line: exit 76, or go on'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l needs -x -d 'Run only if this key has succeeded, else exit 76'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l retries -x -d 'Further attempts after a failed one'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l backoff -x -d 'Exponential backoff between attempts'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l jitter -x -a 'full equal decorrelated' -d 'How the wait between attempts is randomised'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l retry-on -x -d 'What is worth another attempt, such as 75 or 1,5-9,timeout,signal'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l retry-budget -x -d 'At most N retries of this job in the window, over all runs of the ledger'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l success-codes -x -d 'Exit codes that count as success; guardrun still exits with COMMAND\'s own'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s t -l timeout -x -d 'Limit for one attempt'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l deadline -x -d 'Limit for the whole run: splay, waiting, attempts and backoff'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l signal -x -a 'TERM INT QUIT HUP USR1 USR2 KILL' -d 'What a COMMAND that must stop is sent first'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s k -l kill-after -x -d 'Then SIGKILL, to all that COMMAND started'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l splay -x -d 'Wait a while first, at most this long; always the same on one host for one job'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l stdin -x -a 'inherit replay null' -d 'Give COMMAND our stdin, the whole of it for every attempt, or none'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l stdin-max -x -d 'The most that --stdin replay reads'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l output -x -a 'inherit json on-failure discard' -d 'COMMAND\'s stdout and stderr: untouched, as JSON log lines, shown only when the run fails, or dropped'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l capture -x -d 'Keep the last SIZE bytes of each stream in the ledger'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l ledger-url -x -a 'none:' -d 'Where outcomes are kept: sqlite:///PATH, postgresql://… or none:'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l record-wait -x -d 'How long a finished run tries to record its outcome before it goes to the spool'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l on-ledger-down -x -a 'stop run' -d 'The ledger cannot be reached before COMMAND starts: exit 69, or run'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l enqueued-at -x -d 'When the work was due, RFC 3339 or seconds since 1970: gives queue_lag_ms'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l log-to -r -F -a 'stdout stderr none' -d 'Where the log lines go'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l log-format -x -a 'auto json console' -d 'auto: JSON, unless the lines go to a terminal'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l log-level -x -a 'debug info warning error' -d 'The least important lines to write'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s q -l quiet -d 'No lines unless something went wrong'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l metrics-textfile -x -a '(__fish_complete_directories)' -d 'Keep the job\'s metrics in a file there, for node_exporter'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l ping-url -x -d 'Tell this monitor of start and end: healthchecks.io\'s protocol, Cronitor\'s or Sentry\'s'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l config -r -F -d 'Read this configuration file instead of the usual ones'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l dry-run -d 'Print what would happen as JSON, touch nothing'
complete -c guardrun -n '__guardrun_at options "rerun options"' -s h -l help -d 'Show this, and exit'
complete -c guardrun -n '__guardrun_at options "rerun options"' -l version -d 'Show the version, and exit'

complete -c guardrun -n '__guardrun_at history' -l limit -x -d '0 for all'
complete -c guardrun -n '__guardrun_at history' -l job -x -a '(__guardrun_names jobs)' -d 'Only runs of this job'
complete -c guardrun -n '__guardrun_at history' -l key -x -a '(__guardrun_names keys)' -d 'Only runs with this idempotency key'
complete -c guardrun -n '__guardrun_at history' -l result -x -a 'running success failed skipped_duplicate timeout lock_busy lease_lost precondition_failed interrupted store_unavailable' -d 'Only these'
complete -c guardrun -n '__guardrun_at history' -l since -x -d 'Started then or later: RFC 3339, or DURATION ago'
complete -c guardrun -n '__guardrun_at history' -l until -x -d 'Started earlier: RFC 3339, or DURATION ago'
complete -c guardrun -n '__guardrun_at history' -l json -d 'One JSON object a line'
complete -c guardrun -n '__guardrun_at history' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at history' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at history' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at show' -a '(__guardrun_argument runs)'
complete -c guardrun -n '__guardrun_at show' -l json -d 'One JSON object'
complete -c guardrun -n '__guardrun_at show' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at show' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at show' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at why' -a '(__guardrun_argument jobs)'
complete -c guardrun -n '__guardrun_at why' -l limit -x -d '0 for all'
complete -c guardrun -n '__guardrun_at why' -l json -d 'One JSON object a line'
complete -c guardrun -n '__guardrun_at why' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at why' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at why' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at locks' -l older-than -x -d 'Only those held for longer; exits 1 when there is one'
complete -c guardrun -n '__guardrun_at locks' -l scope -x -a 'host distributed' -d 'Only locks of this scope'
complete -c guardrun -n '__guardrun_at locks' -l json -d 'One JSON object a line'
complete -c guardrun -n '__guardrun_at locks' -l lease-url -x -d 'Use this lease store'
complete -c guardrun -n '__guardrun_at locks' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at locks' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at locks' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at unlock' -a '(__guardrun_argument locks)'
complete -c guardrun -n '__guardrun_at unlock' -l force -d 'Do not ask'
complete -c guardrun -n '__guardrun_at unlock' -l owner -x -d 'Only what this run holds: its owner, HOST:PID, or its job_id or the end of it'
complete -c guardrun -n '__guardrun_at unlock' -l scope -x -a 'host distributed' -d 'Only the lock of this scope'
complete -c guardrun -n '__guardrun_at unlock' -l json -d 'One JSON object'
complete -c guardrun -n '__guardrun_at unlock' -l lease-url -x -d 'Use this lease store'
complete -c guardrun -n '__guardrun_at unlock' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at unlock' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at unlock' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at keys' -a show -d 'Show one key, whether it blocks, and its last runs.'
complete -c guardrun -n '__guardrun_at keys' -a forget -d 'Let a key block no longer: its next run executes COMMAND.'
complete -c guardrun -n '__guardrun_at keys' -l limit -x -d '0 for all'
complete -c guardrun -n '__guardrun_at keys' -l state -x -a 'running succeeded expired failed interrupted' -d 'Only these'
complete -c guardrun -n '__guardrun_at keys' -l json -d 'One JSON object a line'
complete -c guardrun -n '__guardrun_at keys' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at keys' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at keys' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at "keys show"' -a '(__guardrun_argument keys)'
complete -c guardrun -n '__guardrun_at "keys show"' -l json -d 'One JSON object'
complete -c guardrun -n '__guardrun_at "keys show"' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at "keys show"' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at "keys show"' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at "keys forget"' -a '(__guardrun_argument keys)'
complete -c guardrun -n '__guardrun_at "keys forget"' -l force -d 'Do not ask'
complete -c guardrun -n '__guardrun_at "keys forget"' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at "keys forget"' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at "keys forget"' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at stats' -l job -x -a '(__guardrun_names jobs)' -d 'Only this job, and all there is to say of it'
complete -c guardrun -n '__guardrun_at stats' -l since -x -d 'Only runs started then or later: RFC 3339, or DURATION ago'
complete -c guardrun -n '__guardrun_at stats' -l last -x -d 'Of each job the newest N runs; more take longer'
complete -c guardrun -n '__guardrun_at stats' -l json -d 'One JSON object a line'
complete -c guardrun -n '__guardrun_at stats' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at stats' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at stats' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at metrics' -l textfile -r -F -d 'Write this file (….prom), by rename'
complete -c guardrun -n '__guardrun_at metrics' -l since -x -d 'The window metrics are about runs that began so long ago at most'
complete -c guardrun -n '__guardrun_at metrics' -l lease-url -x -d 'Use this lease store'
complete -c guardrun -n '__guardrun_at metrics' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at metrics' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at metrics' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at dead' -l limit -x -d '0 for all'
complete -c guardrun -n '__guardrun_at dead' -l job -x -a '(__guardrun_names jobs)' -d 'Only runs of this job'
complete -c guardrun -n '__guardrun_at dead' -l since -x -d 'Started then or later: RFC 3339, or DURATION ago'
complete -c guardrun -n '__guardrun_at dead' -l json -d 'One JSON object a line'
complete -c guardrun -n '__guardrun_at dead' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at dead' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at dead' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at rerun' -a '(__guardrun_argument runs)'
complete -c guardrun -n '__guardrun_at rerun' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at rerun' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at rerun' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at each' -s P -l parallel -x -d 'Run at most N items at a time'
complete -c guardrun -n '__guardrun_at each' -s 0 -l null -d 'Items end with a NUL byte, not with a newline'
complete -c guardrun -n '__guardrun_at each' -l jsonl -d 'Items are JSON objects, one a line; {item.a.b} is a field'
complete -c guardrun -n '__guardrun_at each' -l halt-after -x -d 'Take no new items after N failures'
complete -c guardrun -n '__guardrun_at each' -l keep-order -d 'Write what items write in the order of the input'
complete -c guardrun -n '__guardrun_at each' -l tag -d 'Put the item and a tab before every line that it writes'
complete -c guardrun -n '__guardrun_at each' -l job -x -a '(__guardrun_names jobs)' -d 'What the run is called in the ledger, logs and metrics'
complete -c guardrun -n '__guardrun_at each' -s c -l command -x -d 'Run /bin/sh -c STRING; further words are an error'
complete -c guardrun -n '__guardrun_at each' -l lock -x -d 'Name of the lock held while COMMAND runs'
complete -c guardrun -n '__guardrun_at each' -l lock-file -r -F -d 'Lock this very file or directory, as flock(1) does'
complete -c guardrun -n '__guardrun_at each' -l scope -x -a 'host distributed' -d 'A lock of this host, or a lease in the lease store; implied by --lease-url'
complete -c guardrun -n '__guardrun_at each' -l lease-url -x -d 'Where leases are kept: redis, rediss, redis+sentinel, rediss+sentinel, unix, postgresql, postgresql+advisory, etcd, etcds, consul or consuls'
complete -c guardrun -n '__guardrun_at each' -s j -l slots -x -d 'Up to N holders at once'
complete -c guardrun -n '__guardrun_at each' -s s -l shared -d 'Share the lock with other readers; host scope only'
complete -c guardrun -n '__guardrun_at each' -s x -l exclusive -d 'Hold the lock alone; the default'
complete -c guardrun -n '__guardrun_at each' -s w -l wait -x -a 'forever' -d 'How long to wait for a busy lock, and then for a key another run holds'
complete -c guardrun -n '__guardrun_at each' -s n -l nonblock -d 'Do not wait: --wait 0'
complete -c guardrun -n '__guardrun_at each' -s E -l conflict-exit-code -x -d 'Exit code when the lock is busy'
complete -c guardrun -n '__guardrun_at each' -l min-hold -x -d 'Keep the lock taken at least this long from its acquisition, even when COMMAND ends earlier'
complete -c guardrun -n '__guardrun_at each' -l ttl -x -d 'Time to live of a lease, 10s to 24h; it is renewed every quarter of that'
complete -c guardrun -n '__guardrun_at each' -l claim-ttl -x -d 'Time to live of a key\'s claim in Postgres, 10s to 24h; renewed like a lease'
complete -c guardrun -n '__guardrun_at each' -l on-lease-loss -x -a 'stop warn' -d 'What happens to COMMAND when the lease is no longer proved to be held'
complete -c guardrun -n '__guardrun_at each' -l store-wait -x -d 'How long an unreachable store is tried again before it counts as down'
complete -c guardrun -n '__guardrun_at each' -l key -x -d 'Idempotency key: at most one successful run per key'
complete -c guardrun -n '__guardrun_at each' -l key-ttl -x -d 'How long this run\'s success keeps the key blocked'
complete -c guardrun -n '__guardrun_at each' -l on-duplicate -x -a 'skip fail replay' -d 'The key already succeeded: exit 0, exit 76, or write its stored output again'
complete -c guardrun -n '__guardrun_at each' -l on-interrupted -x -a 'rerun stop' -d 'The key\'s last run was cut off: run again, or exit 76 until a person decides'
complete -c guardrun -n '__guardrun_at each' -l on-mismatch -x -a 'fail ignore' -d 'The key was used with another COMMAND line: exit 76, or go on'
complete -c guardrun -n '__guardrun_at each' -l needs -x -d 'Run only if this key has succeeded, else exit 76'
complete -c guardrun -n '__guardrun_at each' -l retries -x -d 'Further attempts after a failed one'
complete -c guardrun -n '__guardrun_at each' -l backoff -x -d 'Exponential backoff between attempts'
complete -c guardrun -n '__guardrun_at each' -l jitter -x -a 'full equal decorrelated' -d 'How the wait between attempts is randomised'
complete -c guardrun -n '__guardrun_at each' -l retry-on -x -d 'What is worth another attempt, such as 75 or 1,5-9,timeout,signal'
complete -c guardrun -n '__guardrun_at each' -l retry-budget -x -d 'At most N retries of this job in the window, over all runs of the ledger'
complete -c guardrun -n '__guardrun_at each' -l success-codes -x -d 'Exit codes that count as success; guardrun still exits with COMMAND\'s own'
complete -c guardrun -n '__guardrun_at each' -s t -l timeout -x -d 'Limit for one attempt'
complete -c guardrun -n '__guardrun_at each' -l deadline -x -d 'Limit for the whole run: splay, waiting, attempts and backoff'
complete -c guardrun -n '__guardrun_at each' -l signal -x -a 'TERM INT QUIT HUP USR1 USR2 KILL' -d 'What a COMMAND that must stop is sent first'
complete -c guardrun -n '__guardrun_at each' -s k -l kill-after -x -d 'Then SIGKILL, to all that COMMAND started'
complete -c guardrun -n '__guardrun_at each' -l splay -x -d 'Wait a while first, at most this long; always the same on one host for one job'
complete -c guardrun -n '__guardrun_at each' -l stdin -x -a 'inherit replay null' -d 'Give COMMAND our stdin, the whole of it for every attempt, or none'
complete -c guardrun -n '__guardrun_at each' -l stdin-max -x -d 'The most that --stdin replay reads'
complete -c guardrun -n '__guardrun_at each' -l output -x -a 'inherit json on-failure discard' -d 'COMMAND\'s stdout and stderr: untouched, as JSON log lines, shown only when the run fails, or dropped'
complete -c guardrun -n '__guardrun_at each' -l capture -x -d 'Keep the last SIZE bytes of each stream in the ledger'
complete -c guardrun -n '__guardrun_at each' -l ledger-url -x -a 'none:' -d 'Where outcomes are kept: sqlite:///PATH, postgresql://… or none:'
complete -c guardrun -n '__guardrun_at each' -l record-wait -x -d 'How long a finished run tries to record its outcome before it goes to the spool'
complete -c guardrun -n '__guardrun_at each' -l on-ledger-down -x -a 'stop run' -d 'The ledger cannot be reached before COMMAND starts: exit 69, or run'
complete -c guardrun -n '__guardrun_at each' -l enqueued-at -x -d 'When the work was due, RFC 3339 or seconds since 1970: gives queue_lag_ms'
complete -c guardrun -n '__guardrun_at each' -l log-to -r -F -a 'stdout stderr none' -d 'Where the log lines go'
complete -c guardrun -n '__guardrun_at each' -l log-format -x -a 'auto json console' -d 'auto: JSON, unless the lines go to a terminal'
complete -c guardrun -n '__guardrun_at each' -l log-level -x -a 'debug info warning error' -d 'The least important lines to write'
complete -c guardrun -n '__guardrun_at each' -s q -l quiet -d 'No lines unless something went wrong'
complete -c guardrun -n '__guardrun_at each' -l metrics-textfile -x -a '(__fish_complete_directories)' -d 'Keep the job\'s metrics in a file there, for node_exporter'
complete -c guardrun -n '__guardrun_at each' -l ping-url -x -d 'Tell this monitor of start and end: healthchecks.io\'s protocol, Cronitor\'s or Sentry\'s'
complete -c guardrun -n '__guardrun_at each' -l config -r -F -d 'Read this configuration file instead of the usual ones'
complete -c guardrun -n '__guardrun_at each' -l dry-run -d 'Print what would happen as JSON, touch nothing'
complete -c guardrun -n '__guardrun_at each' -s h -l help -d 'Show this, and exit'
complete -c guardrun -n '__guardrun_at each' -l version -d 'Show the version, and exit'
complete -c guardrun -n '__guardrun_at flush' -l json -d 'One JSON object'
complete -c guardrun -n '__guardrun_at flush' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at flush' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at flush' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at prune' -l older-than -x -d 'Delete runs that started longer ago, and keys that have not blocked for so long'
complete -c guardrun -n '__guardrun_at prune' -l json -d 'One JSON object'
complete -c guardrun -n '__guardrun_at prune' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at prune' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at prune' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at migrate' -l lease-url -x -d 'Use this lease store'
complete -c guardrun -n '__guardrun_at migrate' -l json -d 'One JSON object a database'
complete -c guardrun -n '__guardrun_at migrate' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at migrate' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at migrate' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at doctor' -l lease-url -x -d 'Look at this lease store'
complete -c guardrun -n '__guardrun_at doctor' -l json -d 'One JSON object a finding'
complete -c guardrun -n '__guardrun_at doctor' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at doctor' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at doctor' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at completion' -a 'bash zsh fish'
complete -c guardrun -n '__guardrun_at completion' -l names -x -a 'jobs keys locks runs' -d 'Print instead the names that it offers, one a line, with what is to be said of each'
complete -c guardrun -n '__guardrun_at completion' -l lease-url -x -d 'Ask this lease store for names'
complete -c guardrun -n '__guardrun_at completion' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at completion' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at completion' -l help -d 'Show what the subcommand takes, and exit'
complete -c guardrun -n '__guardrun_at adopt' -F
complete -c guardrun -n '__guardrun_at adopt' -l format -x -a 'auto user system unit' -d 'A user\'s crontab, one of the system\'s (a user stands before the command), or a unit file'
complete -c guardrun -n '__guardrun_at adopt' -l names -d 'Named locks (--lock) instead of locks on the same files (--lock-file): with fencing tokens and owners, but per user, and not those of scripts that still call flock'
complete -c guardrun -n '__guardrun_at adopt' -l program -r -F -d 'What guardrun is called'
complete -c guardrun -n '__guardrun_at adopt' -l write -d 'Change FILE itself, beside a backup FILE.bak-TIME~'
complete -c guardrun -n '__guardrun_at adopt' -l ledger-url -x -a 'none:' -d 'Use this ledger'
complete -c guardrun -n '__guardrun_at adopt' -l config -r -F -d 'Use this configuration file'
complete -c guardrun -n '__guardrun_at adopt' -l help -d 'Show what the subcommand takes, and exit'
