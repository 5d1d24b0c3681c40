"""The 25 faults that a guarded run has to stand, what must hold, and the tests that show it.

Tests run on real processes and real servers. Invariants: **M** never are two COMMANDs alive under
one lock; **F** fencing tokens grow, and a register that checks them refuses the older one; **O** at
most one live claim and one success per key; **D** nothing is executed without a durable claim;
**T** what has ended is not rewritten; **K** nothing of COMMAND is alive past its lease; **R** only
the owner's token renews or releases; **L** every wait ends; **S** no secret is shown.
"""

from __future__ import annotations

from typing import NamedTuple

_FAULTS = "tests/faults"
_LEASES = f"{_FAULTS}/test_lease_faults.py"
_CUT = f"{_FAULTS}/test_commit_cut.py"
_KEEPER = f"{_FAULTS}/test_keeper_faults.py"
_REDIS = "tests/contract/test_redis_leases.py"
_POSTGRES = "tests/contract/test_postgres_leases.py"
_POSTGRES_LEDGER = "tests/contract/test_postgres_ledger.py"
_EVERY_STORE = "tests/contract/test_leases.py"
_RUN = "tests/e2e/test_lease_run.py"
_TOGETHER = "tests/e2e/test_lease_and_ledger.py"
_LOCK = "tests/e2e/test_lock.py"
_LOCK_FILE = "tests/e2e/test_lock_file.py"
_STOP = "tests/e2e/test_stop.py"


class Fault(NamedTuple):
    """One fault."""

    number: int
    what: str
    holds: str
    """what must hold, with the letters of the invariants"""
    shown_by: tuple[str, ...]
    """the tests; none where the store that it is about is not in this version"""


CATALOGUE = (
    Fault(
        1,
        "SIGKILL of guardrun while COMMAND runs under a host lock",
        "M: a contender waits until COMMAND's whole tree is dead, and then starts",
        (
            f"{_LOCK}::test_kill_9_frees_the_lock_when_command_is_dead",
            f"{_STOP}::test_lock_is_not_commands_alone",
            f"{_STOP}::test_two_killed_at_once",
        ),
    ),
    Fault(
        2,
        "COMMAND leaves a daemon behind that inherited the lock's descriptor",
        "L: the lock is free at the run's end, and an event tells of the daemon",
        (
            f"{_LOCK}::test_a_daemon_does_not_keep_the_lock",
            f"{_STOP}::test_daemon_is_left_alone",
            f"{_LOCK_FILE}::test_a_daemon_does_not_keep_the_lock_file",
        ),
    ),
    Fault(
        3,
        "the lock file is unlinked while it is held, with two contenders",
        "M: who got the old file's lock compares inodes, and queues at the new one",
        (
            f"{_LOCK}::test_a_lock_file_that_was_removed_does_not_make_two_holders",
            f"{_LOCK_FILE}::test_a_lock_file_that_was_replaced_does_not_make_two_holders",
        ),
    ),
    Fault(
        4,
        "a symbolic link, FIFO, directory or hard link in the lock file's place",
        "it is refused, and what it leads to is untouched",
        (
            f"{_LOCK}::test_a_lock_file_that_is_not_ours_is_refused",
            "tests/e2e/test_ledger_cli.py::test_what_is_no_file_of_ours_is_refused",
        ),
    ),
    Fault(
        5,
        "SIGSTOP of guardrun for longer than the ttl",
        "M, K: the keeper renews and COMMAND lives on; where it can't, the warden kills in time, "
        "and F: the successor's token is larger",
        (
            f"{_RUN}::test_a_stopped_guardrun",
            f"{_LEASES}::test_a_stopped_supervisor",
            f"{_LEASES}::test_a_stopped_supervisor_with_its_keeper_cut_off",
            f"{_LEASES}::test_keeper_and_supervisor_stopped",
            f"{_KEEPER}::test_a_stopped_supervisor_does_not_lose_its_claim",
        ),
    ),
    Fault(
        6,
        "SIGSTOP of all of guardrun and of COMMAND for longer than the ttl, then SIGCONT",
        "F: what COMMAND writes when it wakes up is refused; K: it is killed as soon as anybody "
        "of guardrun is awake; R: the successor's lease is left alone",
        (f"{_FAULTS}/test_fencing.py::test_everything_is_frozen_beyond_the_ttl",),
    ),
    Fault(
        7,
        "CLOCK_BOOTTIME leaps by two ttls (suspend)",
        "K: COMMAND is killed, whatever the store renews",
        (f"{_LEASES}::test_a_host_that_was_suspended",),
    ),
    Fault(
        8,
        "the store out of reach from the start of COMMAND",
        "K: dead before the lease can be granted again; O: the run is recorded, or spooled, as "
        "interrupted",
        (
            f"{_LEASES}::test_a_store_out_of_reach",
            f"{_LEASES}::test_a_store_that_was_late_from_the_start",
            f"{_TOGETHER}::test_a_lost_lease_is_recorded_elsewhere",
            f"{_KEEPER}::test_whoever_is_stopped_command_does_not_outlive_its_claim",
            f"{_CUT}::test_an_outcome_that_cannot_be_told_waits_in_the_spool",
        ),
    ),
    Fault(
        9,
        "the store out of reach for two renewals, and then back",
        "COMMAND is neither told to stop nor killed",
        (f"{_LEASES}::test_an_outage_that_ends_in_time",),
    ),
    Fault(
        10,
        "the answer to an acquisition is lost, and it is asked for again",
        "F, R: the same owner, one place, one step of the fence",
        (
            f"{_FAULTS}/test_lease_cuts.py::test_cut_at_the_acquisition",
            f"{_REDIS}::TestForgetting::test_answer_lost",
            f"{_POSTGRES}::test_a_lost_answer_is_asked_for_again",
            f"{_EVERY_STORE}::TestHolding::test_asked_twice",
        ),
    ),
    Fault(
        11,
        "the answer to a renewal comes after COMMAND was told to stop",
        "K: the kill is not taken back",
        (
            f"{_LEASES}::test_renewals_that_hang",
            f"{_LEASES}::test_an_outage_that_ends_too_late_for_some",
        ),
    ),
    Fault(
        12,
        "the connection is reset during the release",
        "R: nothing of a successor's is touched; L: the lock is free within a ttl",
        (
            f"{_FAULTS}/test_lease_cuts.py::test_reset_at_the_release",
            f"{_TOGETHER}::test_cut_at_the_commit",
            f"{_TOGETHER}::test_cut_off_from_the_commit_on",
            f"{_EVERY_STORE}::TestHolding::test_released_twice",
        ),
    ),
    Fault(
        13,
        "Redis restarts empty while a lease is held",
        "the loss is seen with the next renewal; F: the next token is larger all the same, and "
        "`fence_durable` was false",
        (
            f"{_LEASES}::test_a_store_that_forgets",
            f"{_REDIS}::TestForgetting::test_restarted_empty",
            f"{_RUN}::test_a_fence_that_survives_a_crash",
        ),
    ),
    Fault(
        14,
        "a failover of Redis to a replica that has not heard of the lease",
        "F: the old run's writes are refused; the loss is reported",
        (
            f"{_FAULTS}/test_fencing.py::test_a_failover_before_replication",
            "tests/contract/test_redis_sentinel.py::TestWay::test_not_durable",
        ),
    ),
    Fault(
        15,
        "somebody deletes or overwrites the lock in the store by hand",
        "K: COMMAND is killed with the next renewal, 74; R: the successor's lease is untouched",
        (
            f"{_RUN}::test_a_lease_that_is_taken_away",
            f"{_TOGETHER}::test_taken_away_just_before_the_end",
            f"{_REDIS}::TestByHand::test_overwritten",
            f"{_REDIS}::TestByHand::test_deleted",
            f"{_REDIS}::TestByHand::test_damaged",
        ),
    ),
    Fault(
        16,
        "Redis has forgotten its scripts (NOSCRIPT)",
        "F: they are loaded again, and the fence takes one step",
        (f"{_REDIS}::TestForgetting::test_scripts_flushed",),
    ),
    Fault(
        17,
        "a row of Postgres stays locked until the lease in it has lapsed",
        "M: one winner, and its lease or claim lasts its full time from the grant",
        (
            f"{_POSTGRES}::test_a_lease_after_a_lock_wait_lasts_its_whole_ttl",
            f"{_POSTGRES}::test_a_renewal_behind_a_lock_that_outlasts_the_lease_fails",
            f"{_POSTGRES_LEDGER}::test_a_takeover_after_a_lock_wait_gets_the_full_time",
        ),
    ),
    Fault(
        18,
        "the connection is cut at the COMMIT of a claim, before or after it happened",
        "D, O: executed once, under a claim that is known; else not at all",
        (
            f"{_CUT}::test_a_claim_is_made_once",
            f"{_CUT}::test_nothing_is_executed_before_a_claim_is_known",
            f"{_CUT}::test_a_claim_that_stays_unknown_executes_nothing",
            f"{_FAULTS}/test_last_words.py::test_a_claim_that_nobody_heard_of_is_given_back",
        ),
    ),
    Fault(
        19,
        "the connection is cut at the COMMIT of an outcome, before or after it happened",
        "T: recorded once, however often it is told; a later run's truth stays",
        (
            f"{_CUT}::test_an_outcome_is_recorded_once",
            f"{_CUT}::test_an_outcome_that_cannot_be_told_waits_in_the_spool",
            f"{_CUT}::test_a_spooled_outcome_yields_to_a_later_run",
        ),
    ),
    Fault(
        20,
        "the server ends the session that holds an advisory lock",
        "K: COMMAND is killed as soon as that is seen, and it is seen at once",
        (
            f"{_RUN}::test_a_lease_that_is_taken_away",
            f"{_POSTGRES}::test_a_session_that_ends_is_seen_at_once",
            f"{_POSTGRES}::test_a_restart_loses_advisory_locks",
        ),
    ),
    Fault(
        21,
        "etcd answers a keepalive with 200 and no TTL",
        "it is lost",
        ("tests/contract/test_etcd_leases.py::TestLosing::test_extended_without_a_ttl",),
    ),
    Fault(
        22,
        "Consul invalidates the session, and its lock-delay begins",
        "L: the next holder has the lock after at most twice the ttl and the delay",
        (
            "tests/contract/test_consul_leases.py::TestLosing::test_invalidated",
            "tests/contract/test_consul_leases.py::TestLosing::test_nobody_before_it_is_dead",
            "tests/contract/test_consul_leases.py::TestLosing::test_lapsed",
        ),
    ),
    Fault(
        23,
        "SIGKILL at the n-th step of input or output, n = 1, 2, 3 … until none is left",
        "O, D, T: at worst the key is interrupted, and the next run goes on",
        (
            f"{_FAULTS}/test_crash_points.py::test_with_the_embedded_ledger",
            f"{_FAULTS}/test_crash_points.py::test_the_end_of_a_run",
            f"{_FAULTS}/test_random_kills.py::test_random_kills",
            "tests/unit/test_spool.py::test_a_kill_at_any_moment_leaves_whole_files_only",
        ),
    ),
    Fault(
        24,
        "64 runs at once on one ledger in SQLite, and its disk is full",
        "O; D: what could not be claimed is not executed",
        (
            f"{_FAULTS}/test_full_disk.py::test_racers_on_a_full_disk",
            "tests/e2e/test_race.py::test_one_key_one_execution",
            "tests/contract/test_sqlite_ledger.py::test_a_full_disk_refuses_the_claim",
        ),
    ),
    Fault(
        25,
        "a password in options or environment, on every path to an error",
        "S: in no log, ledger, message or command line; what stood in guardrun's own environment "
        "stands in COMMAND's",
        (
            "tests/e2e/test_passwords.py",
            "tests/e2e/test_wrong_input.py::test_a_password_on_the_command_line",
        ),
    ),
)
