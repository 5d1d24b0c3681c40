"""The list of planted bugs. How to add one: CONTRIBUTING.md."""

from __future__ import annotations

from . import Mutant

_LEASES = "tests/contract/test_leases.py"
_LEDGER = "tests/contract/test_ledger.py"
_PG_LEDGER = "tests/contract/test_postgres_ledger.py"
_PG_LEASES = "tests/contract/test_postgres_leases.py"
_CONSUL = "tests/contract/test_consul_leases.py"
_ETCD = "tests/contract/test_etcd_leases.py"
_EACH_LOCK = "tests/e2e/test_each_lock.py"
_LOCK = "tests/e2e/test_lock.py"
_LEDGER_CLI = "tests/e2e/test_ledger_cli.py"
_BOTH = "tests/e2e/test_lease_and_ledger.py"
_TERMS = "tests/unit/test_lease.py"
_SQLITE = "tests/contract/test_sqlite_ledger.py"
_KEEPER = "tests/faults/test_keeper_faults.py"
_FAULTS = "tests/faults/test_lease_faults.py"

MUTANTS = (
    # ------------------------------------------------------------ time
    Mutant(
        "renewal counted from its answer",
        "guardrun/keeper/holding.py",
        "                self._extend(sent_at)\n",
        "                self._extend(kernel.now())\n",
        "An answer that was long on its way makes the lease seem longer than the store's: COMMAND "
        "lives on when the lock can be another's.",
        ("tests/unit/test_holding.py::test_a_renewal_counts_from_before_it_was_asked_for",),
        simulated=True,
    ),
    Mutant(
        "grant counted from its answer",
        "guardrun/keeper/keeper.py",
        "            place.take(sent_at)\n",
        "            place.take(kernel.now())\n",
        "The same at the first grant, which a slow login delays the most.",
        (f"{_FAULTS}::test_a_store_that_was_late_from_the_start",),
        simulated=True,
    ),
    Mutant(
        "late success cancels the kill",
        "guardrun/term.py",
        "        if now < self.term_at:\n",
        "        if now < self.kill_at:\n",
        "COMMAND was told to stop and is half-way through tidying up; a lease that it seems to "
        "have again only for some must not bring it back.",
        ("tests/unit/test_term.py::test_a_renewal_after_the_term_changes_nothing",),
        simulated=True,
    ),
    Mutant(
        "renewed too late",
        "guardrun/core/lease.py",
        "rng.uniform(lease.ttl / 5, lease.ttl / 4)",
        "rng.uniform(lease.ttl / 4, lease.ttl / 2)",
        "Jitter that makes the interval longer leaves room for one lost renewal instead of three.",
        (f"{_TERMS}::test_jitter_only_makes_a_renewal_earlier",),
    ),
    Mutant(
        "a grant is used however late it is heard of",
        "guardrun/keeper/holding.py",
        "        if lease.Lease(self._ttl, sent_at, self._grace).term_at <= kernel.now():\n",
        "        if lease.Lease(self._ttl, sent_at, self._grace).term_at <= 0.0:\n",
        "A keeper that was stopped between asking and hearing makes the run lose what is its own.",
        ("tests/unit/test_holding.py::test_a_grant_that_is_heard_of_too_late_is_none",),
        simulated=True,
    ),
    Mutant(
        "a keeper that is asked needs to show no life",
        "guardrun/keeper/link.py",
        "            look_at = min(limit, self.overdue_at() + _LOOK, kernel.now() + _LOOK)\n",
        "            look_at = limit\n",
        "A keeper that is stopped while the supervisor waits for its answer is replaced when what "
        "it held has lapsed.",
        (f"{_KEEPER}::test_a_keeper_that_is_stopped_when_it_is_asked_is_replaced",),
        simulated=True,
    ),
    Mutant(
        "a new keeper has longer than is left",
        "guardrun/term.py",
        "        self.show_life(now + (min(most, max(_LEAST, left / 2)) if left > 0 else most))\n",
        "        self.show_life(now + most)\n",
        "One that is stopped right at its start is taken for busy until the lease has lapsed.",
        (
            "tests/unit/test_term.py::test_a_new_keeper_leaves_time_for_another[10.0-1.0-3.525]",
            "tests/sim/test_sim.py::test_a_keeper_that_is_stopped_when_it_has_just_replaced_another",
        ),
        simulated=True,
    ),
    Mutant(
        "no keeper after five that died",
        "guardrun/keeper/link.py",
        "                self._rest(often, kernel.now() + _REST)\n",
        "                self._rest(often, _NEVER)\n",
        "What killed them is over when COMMAND ends, and nobody is there to record its outcome: "
        "the key is held for its whole --claim-ttl.",
        (
            "tests/unit/test_link.py::test_keepers_that_die_young_get_a_rest_and_not_the_end",
            "tests/sim/test_sim.py::test_keepers_that_die_again_and_again",
        ),
        simulated=True,
    ),
    Mutant(
        "the look at the term and the start are two steps",
        "guardrun/warden/warden.py",
        "        self._burn(start_by)\n",
        "",
        "A warden that is stopped between them starts COMMAND when it is continued, under a lease "
        "that is another's by then.",
        (
            "tests/sim/test_sim.py::test_stopped_between_the_look_at_the_term_and_the_start[None]",
            f"{_KEEPER}::test_a_warden_that_is_stopped_before_the_start",
        ),
        simulated=True,
    ),
    Mutant(
        "started on the last of a lease",
        "guardrun/keeper/link.py",
        "        if kernel.now() < self.term.half_at:\n            return True\n",
        "        if kernel.now() < self.term.kill_at:\n            return True\n",
        "COMMAND starts with next to nothing left of its lease, and is killed at once.",
        ("tests/unit/test_link.py::test_a_lease_that_is_half_gone_is_renewed_before_command",),
    ),
    Mutant(
        "patience beyond the term",
        "guardrun/keeper/keeper.py",
        "        return min([due, *(spared(holding.needed_at) for holding in held)])\n",
        "        return due\n",
        "A ledger that hangs keeps the keeper from renewing the lease, and costs COMMAND its life.",
        (f"{_BOTH}::test_the_lease_lasts_until_the_outcome_is_kept",),
    ),
    # ------------------------------------------------------------ order of the six steps
    Mutant(
        "release before finish",
        "guardrun/run.py",
        "        outcome = persist(plan, outcome, tools)\n",
        "        tools.lock and tools.lock.release(); outcome = persist(plan, outcome, tools)\n",
        "The next holder starts, and asks the ledger, before this one's outcome is there.",
        (f"{_LEDGER_CLI}::test_the_lock_is_held_until_the_outcome_is_recorded",),
        simulated=True,
    ),
    Mutant(
        "claim after exec",
        "guardrun/run.py",
        "                held, ending = validate_key(plan, me, tools, held)\n",
        "                ending = execute(plan, me, tools, held, attempts);"
        " held, _ = validate_key(plan, me, tools, held)\n",
        "Two runs with one key execute, and only then is it decided which of them was allowed to.",
        (
            "tests/e2e/test_key.py::test_the_claim_is_committed_before_command_runs",
            "tests/e2e/test_key.py::test_a_key_that_succeeded_is_skipped",
        ),
        crashes=("--role", "supervisor", "--every", "5", "sqlite"),
        simulated=True,
    ),
    Mutant(
        "LOCK_UN before the tree is dead",
        "guardrun/warden/warden.py",
        "            tree.signal_tree(self._signum, self._group, heard=self._heard)\n",
        "            tree.signal_tree(self._signum, self._group, heard=self._heard);"
        " [fcntl.flock(fd, fcntl.LOCK_UN) for fd in self._held]\n",
        "COMMAND was told to stop and tidies up, while the next holder of the lock begins.",
        (f"{_LOCK}::test_the_lock_is_held_until_all_of_a_stopped_command_is_dead",),
    ),
    Mutant(
        "a killed COMMAND counts as one that ended",
        "guardrun/core/attempt.py",
        "    (RUNNING, CRASH): (STOPPING, TERMINATE),\n",
        "    (RUNNING, CRASH): (OVER, REPORT),\n",
        "The OOM killer takes a shell; what that had started runs on without lock or limit.",
        ("tests/e2e/test_stop.py::test_death_by_signal_is_no_normal_end",),
    ),
    Mutant(
        "orphans are not adopted",
        "guardrun/warden/backstop.py",
        "        try:\n            kernel.become_subreaper()\n            os.setpgid(0, 0)\n",
        "        try:\n            os.setpgid(0, 0)\n",
        "Who has lost its parent is nobody's child any more, and outlives the timeout.",
        ("tests/e2e/test_stop.py::test_timeout_by_force",),
    ),
    Mutant(
        "keeper releases before it kills",
        "guardrun/keeper/keeper.py",
        "        while len(dead) < self._term.executed and (\n",
        "        while False and (\n",
        "guardrun was killed: the lock is another's while COMMAND is still alive.",
        (f"{_FAULTS}::test_a_killed_supervisor",),
        simulated=True,
    ),
    Mutant(
        "warden says nothing when it is dismissed",
        "guardrun/warden/warden.py",
        "                self._tell_keeper()  # the supervisor may be killed before it gives the "
        "lock back\n",
        "",
        "A supervisor that is killed after that leaves nobody who could say that COMMAND is dead: "
        "until its ttl is over the lease is nobody's to have.",
        ("tests/faults/test_crash_points.py::test_the_end_of_a_run",),
        simulated=True,
    ),
    Mutant(
        "keeper does not tell of its supervisor's death",
        "guardrun/keeper/keeper.py",
        "                dead.add(received[0].warden)\n        self._tell_the_rest()\n",
        "                dead.add(received[0].warden)\n",
        "The key stays held for its whole --claim-ttl though nothing of COMMAND is alive.",
        ("tests/e2e/test_postgres_run.py::test_a_killed_run_frees_its_key_at_once",),
        crashes=("--role", "supervisor", "--every", "4", "postgres"),
        simulated=True,
    ),
    Mutant(
        "who gives its claim back seems to run",
        "guardrun/sql/postgres/run.sql",
        " AND (SELECT count(*) FROM claim) >= 0\n\n-- name: unclaimed_success\n",
        " AND (SELECT count(*) FROM claim) < 0\n\n-- name: unclaimed_success\n",
        "A run that was killed before it had executed anything is running for its --claim-ttl.",
        (f"{_PG_LEDGER}::test_a_run_that_gives_its_claim_back_does_not_seem_to_run",),
        crashes=("--role", "supervisor", "--every", "1", "postgres"),
    ),
    # ------------------------------------------------------------ locks
    Mutant(
        "no inode recheck",
        "guardrun/locks/flock.py",
        "        if not same_inode(self._fds[slot], status):\n",
        "        if not same_inode(self._fds[slot], os.fstat(self._fds[slot])):\n",
        "After somebody has removed the lock file, two runs hold two locks of one name.",
        (f"{_LOCK}::test_a_lock_file_that_was_removed_does_not_make_two_holders",),
    ),
    Mutant(
        "unconditional DEL",
        "guardrun/locks/lua/release.lua",
        "if not mine then return 0 end\n",
        "if not mine then return redis.call('DEL', HELD) end\n",
        "Who wakes up after its lease has lapsed takes the lock from whoever has it now.",
        (
            f"{_LEASES}::TestHolding::test_only_the_owner[redis]",
            f"{_LEASES}::TestHolding::test_released_twice[redis]",
        ),
    ),
    Mutant(
        "no owner check",
        "guardrun/sql/postgres/leases.sql",
        " WHERE lease_id = %(id)s AND token = %(token)s AND expires_at > clock_timestamp()\n"
        "   AND number IS NULL\nRETURNING true\n\n-- name: session_holds\n",
        " WHERE lease_id = %(id)s AND expires_at > clock_timestamp()\n"
        "   AND number IS NULL\nRETURNING true\n\n-- name: session_holds\n",
        "The same in Postgres: a release is good for whoever holds the place.",
        (
            f"{_LEASES}::TestHolding::test_only_the_owner[postgres]",
            f"{_LEASES}::TestHolding::test_released_twice[postgres]",
        ),
    ),
    Mutant(
        "now() instead of clock_timestamp()",
        "guardrun/sql/postgres/leases.sql",
        "    SELECT clock_timestamp() AS t\n), taken AS MATERIALIZED (\n",
        "    SELECT now() AS t\n), taken AS MATERIALIZED (\n",
        "now() is when the transaction began: a lease that was waited for behind a row lock lapses "
        "too early by that, while its holder counts the whole ttl.",
        (f"{_PG_LEASES}::test_a_lease_after_a_lock_wait_lasts_its_whole_ttl",),
    ),
    Mutant(
        "now() in a renewal",
        "guardrun/sql/postgres/leases.sql",
        " WHERE lease_id = %(id)s AND token = %(token)s AND expires_at > clock_timestamp()\n"
        "   AND number IS NULL\nRETURNING EXISTS",
        " WHERE lease_id = %(id)s AND token = %(token)s AND expires_at > now()\n"
        "   AND number IS NULL\nRETURNING EXISTS",
        "A renewal that waited beyond the lease's end brings it back.",
        (f"{_PG_LEASES}::test_a_renewal_behind_a_lock_that_outlasts_the_lease_fails",),
    ),
    Mutant(
        "lost wake-up between asking and listening",
        "guardrun/locks/redis.py",
        "            # Between that answer and now it may have become free, and nobody told us.\n"
        "            said = self._acquire(wanted, wait, due)\n",
        "            pass\n",
        "A lock that was given back in between is free, and its first waiter sleeps.",
        ("tests/contract/test_redis_leases.py::TestCosts::test_no_gap",),
    ),
    Mutant(
        "lost wake-up that came with an answer",
        "guardrun/postgres/session.py",
        "            self._used_at = kernel.now()\n            self._hear(connection)\n",
        "            self._used_at = kernel.now()\n",
        "libpq has read the notification together with an answer: no descriptor says so.",
        (f"{_PG_LEASES}::test_what_comes_with_an_answer_is_not_missed",),
    ),
    Mutant(
        "lost wake-up that came with a sign of life",
        "guardrun/postgres/session.py",
        "        if self._take(connection):\n",
        "        if self._take(connection) and not self.listens:\n",
        "libpq has read it while nothing was asked but whether the session is alive.",
        (f"{_PG_LEASES}::test_what_comes_with_a_sign_of_life_is_not_missed",),
    ),
    Mutant(
        "wake-up not sent",
        "guardrun/locks/lua/release.lua",
        "wake('')\nreturn 1\n",
        "return 1\n",
        "The lock is free, and who waits for it finds out seconds later.",
        (f"{_LEASES}::TestWake::test_woken[redis]",),
    ),
    Mutant(
        "order of the queue lost",
        "guardrun/locks/lua/acquire.lua",
        "if (rank or redis.call('ZCARD', QUEUE)) < free then\n",
        "if free > 0 then\n",
        "Who comes at the right moment overtakes all who wait; under load some never get it.",
        (
            f"{_LEASES}::TestQueue::test_in_order[redis]",
            f"{_LEASES}::TestQueue::test_no_starvation[redis]",
        ),
    ),
    Mutant(
        "fence without a clock",
        "guardrun/locks/lua/common.lua",
        "  local fence = math.max(last + 1, now)\n",
        "  local fence = last + 1\n",
        "A server that comes back empty begins anew, and old tokens are larger than new ones.",
        (
            f"{_LEASES}::TestFence::test_is_a_time[redis]",
            "tests/contract/test_redis_leases.py::TestForgetting::test_restarted_empty",
        ),
    ),
    # ------------------------------------------------------------ the ledger
    Mutant(
        "missing BEGIN IMMEDIATE",
        "guardrun/ledger/sqlite_writer.py",
        '        db.execute("BEGIN IMMEDIATE")\n',
        '        db.execute("BEGIN")\n',
        "A transaction that reads first and writes later fails with SQLITE_BUSY_SNAPSHOT when "
        "another process has written in between, however patient everybody is.",
        (f"{_SQLITE}::test_nobody_writes_between_a_look_and_the_claim",),
    ),
    Mutant(
        "claim token not checked on finish (SQLite)",
        "guardrun/sql/sqlite/run.sql",
        " WHERE key = :key AND token = :token AND state IN ('running', 'interrupted');\n",
        " WHERE key = :key AND state IN ('running', 'interrupted');\n",
        "A run that lost its key records its success as that of whoever runs now.",
        (f"{_LEDGER}::test_a_stale_finish_completes_its_row_and_leaves_the_key[sqlite]",),
    ),
    Mutant(
        "claim token not checked on finish (Postgres)",
        "guardrun/sql/postgres/run.sql",
        "     WHERE held.id = %(key_id)s AND held.token = %(token)s AND NOT EXISTS (SELECT FROM "
        "done)\n",
        "     WHERE held.id = %(key_id)s AND NOT EXISTS (SELECT FROM done)\n",
        "The same in Postgres.",
        (f"{_LEDGER}::test_a_stale_finish_completes_its_row_and_leaves_the_key[postgres]",),
    ),
    Mutant(
        "a place in etcd taken a second time",
        "guardrun/locks/etcd.py",
        'compare(entry, "MOD", "EQUAL", state.mine.modified)',
        'compare(entry, "CREATE", "EQUAL", state.mine.created)',
        "A request that comes late, after a second one has taken the place, puts it back on its "
        "own lease, which is nearly over, and changes the fence.",
        (f"{_ETCD}::test_a_grant_that_is_carried_out_again",),
    ),
    Mutant(
        "a place in etcd taken although another came",
        "guardrun/locks/etcd.py",
        """            only_if = [unchanged | {"range_end": coded(beyond(entries))}]\n""",
        "            only_if = []\n",
        "Of two that find the lock free at once, both get it.",
        (f"{_ETCD}::test_somebody_was_faster",),
        simulated=True,
    ),
    Mutant(
        "session ended before its place is given back",
        "guardrun/locks/consul.py",
        "                # The key first: what a session still has at its end gets a lock-delay.\n",
        "                self._session.end(due, mine.session)\n",
        "Consul's lock-delay keeps every lock from the next holder, after every run.",
        (f"{_CONSUL}::TestSessions::test_its_own",),
    ),
    Mutant(
        "unconditional delete at the release (Consul)",
        "guardrun/locks/consul.py",
        "self._session.change(due, wanted.lock, held, consul_session.delete(mine.name))",
        "self._session.change(due, wanted.lock, consul_session.delete(mine.name))",
        "A run whose lease has lapsed without its knowing gives back what is the next holder's.",
        (f"{_LEASES}::TestLapse::test_a_late_release[consul]",),
    ),
    Mutant(
        "no lock-delay",
        "guardrun/locks/consul_session.py",
        '            "LockDelay": _milliseconds(min(delay, LONGEST_DELAY)),\n',
        '            "LockDelay": _milliseconds(0.0),\n',
        "Who is next runs beside a COMMAND whose session was invalidated, until that notices.",
        (f"{_CONSUL}::TestLosing::test_nobody_before_it_is_dead",),
    ),
    Mutant(
        "a place made anew whoever has it",
        "guardrun/locks/consul.py",
        "            words = [consul_session.absent(name), *words]\n",
        "            words = [consul_session.delete(name), *words]\n",
        "Of two that find the lock free at once, the second takes it from the first.",
        (f"{_CONSUL}::TestWaiting::test_somebody_was_faster[False]",),
    ),
    Mutant(
        "a place that was left taken whoever took it",
        "guardrun/locks/consul.py",
        "[consul_session.unchanged(left), consul_session.delete(name), *words]\n",
        "[consul_session.delete(name), *words]\n",
        "The same, of two that find what a lost run has left: neither its key nor its value is in "
        "the way, and the second has both.",
        (f"{_CONSUL}::TestWaiting::test_somebody_was_faster[True]",),
    ),
    Mutant(
        "a place that was left is locked as it is",
        "guardrun/locks/consul.py",
        "[consul_session.unchanged(left), consul_session.delete(name), *words]\n",
        "[consul_session.unchanged(left), *words]\n",
        "A lock needs no new key, but the fence does: the next holder has that of the lost one, "
        "and a resource cannot tell them apart.",
        (f"{_CONSUL}::TestFence::test_after_what_was_left",),
        simulated=True,
    ),
    Mutant(
        "a query that was answered counts as waiting",
        "guardrun/locks/consul_watch.py",
        "            self._spend(token)\n",
        "            pass\n",
        "Unlike a watch in etcd it tells once: a renewal wakes the first waiter, and after that "
        "nothing does, the release included.",
        (f"{_CONSUL}::TestWaiting::test_an_answer_without_news",),
        simulated=True,
    ),
    Mutant(
        "a refusal that an agent hands on is a failure",
        "guardrun/locks/consul_connection.py",
        '.split()).replace(_HANDED_ON, "")\n',
        ".split())\n",
        "On a host whose agent is no server nobody finds out that a lost run's place is free: "
        "every run ends with 69 until somebody deletes the key.",
        (f"{_CONSUL}::TestWays::test_an_agent_that_is_no_server",),
        simulated=True,
    ),
    Mutant(
        "budget checked, then incremented",
        "guardrun/sql/postgres/run.sql",
        "SELECT pg_advisory_xact_lock(%(lock)s)\n",
        "SELECT %(lock)s::bigint\n",
        "Runs that fail together each see the budget as it was before any of them: a retry storm.",
        (f"{_PG_LEDGER}::test_a_budget_is_spent_by_one_at_a_time",),
    ),
    Mutant(
        "spool replay overwrites",
        "guardrun/sql/sqlite/run.sql",
        "       held_by = excluded.held_by\n WHERE runs.finished_at IS NULL;\n",
        "       held_by = excluded.held_by\n WHERE true;\n",
        "An outcome that was recorded is written over by an older one from the spool.",
        (f"{_LEDGER}::test_repeating_finish_changes_nothing[sqlite]",),
    ),
    Mutant(
        "spool not synced",
        "guardrun/ledger/spool.py",
        "                os.fsync(fd)\n            finally:\n",
        "            finally:\n",
        "After a power cut the file is there, and empty.",
        ("tests/unit/test_spool.py::test_it_is_on_disk_before_keep_returns",),
    ),
    Mutant(
        "spool file removed before it is recorded",
        "guardrun/ledger/spool.py",
        "            large = sum(map(len, outcome.captured or ())) > _LARGE\n",
        "            large = sum(map(len, outcome.captured or ())) > _LARGE;"
        " large or self.remove(path)\n",
        "A ledger that goes down at the wrong moment makes a success vanish.",
        ("tests/unit/test_spool.py::test_a_ledger_that_goes_down_keeps_the_rest",),
        crashes=("--role", "supervisor", "--every", "4", "sqlite, from the spool"),
    ),
    # ------------------------------------------------------------ the pool
    Mutant(
        "a pool's lease is free when its first item is dead",
        "guardrun/keeper/keeper.py",
        "        while len(dead) < self._term.executed and (\n",
        "        while not (dead and self._term.executed) and (\n",
        "guardrun each was killed, and an item whose warden is slow runs on without the lock.",
        (f"{_EACH_LOCK}::test_a_killed_pool_with_a_warden_that_is_stopped[redis]",),
    ),
    Mutant(
        "an item goes by its own keeper alone",
        "guardrun/term.py",
        "        self.lock = lock or Row(page[_ROW : 2 * _ROW])\n",
        "        self.lock = Row(page[_ROW : 2 * _ROW])\n",
        "The lock that the pool holds is lost, and an item with a claim in Postgres runs on.",
        (f"{_EACH_LOCK}::test_a_lost_lease_with_both_far_away[redis]",),
    ),
    Mutant(
        "an item goes on before its commit",
        "guardrun/pool/commits.py",
        "            for entry in entries:\n                entry.error = error\n",
        "            del error\n",
        "A claim that the disk did not take seems to be there: the item runs, and runs again.",
        ("tests/unit/test_commits.py::test_a_commit_that_fails_fails_all",),
    ),
    # ------------------------------------------------------------ adoption
    Mutant(
        "adopted into a lock of another kind",
        "guardrun/adopt/layers.py",
        '        layers.lock = [f"--lock-file {path.raw}"]\n',
        '        layers.lock = [f"--lock {path.raw}"]\n',
        "The script that is not adopted yet runs beside the line that is.",
        ("tests/e2e/test_adopt_cli.py::test_both_exclude_each_other",),
    ),
    Mutant(
        "adopted limit not for the wait",
        "guardrun/adopt/layers.py",
        "layers.limit_is_first = limit, layers.lock is None\n",
        "layers.limit_is_first = limit, False\n",
        "A line that gave up after five minutes waits for its lock for ever.",
        ("tests/unit/test_adopt.py::test_a_limit_before_the_lock_is_for_the_wait",),
    ),
    Mutant(
        "adopted over somebody else's change",
        "guardrun/adopt/file.py",
        "        _refuse_changed(original)\n",
        "",
        "What an admin saved while adopt was at work is gone.",
        ("tests/unit/test_adopt.py::test_a_file_that_was_changed_meanwhile_is_left",),
    ),
)
"""In every one of them ``new`` is right at first sight."""
