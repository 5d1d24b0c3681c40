"""``guardrun each``: every option of a run is each item's, over one pool and over two."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pools import counted, fed, lines, peak, said
from support import Host, finish, write_script

QUIET = ("--log-to", "none")

TIMED = """#!/bin/sh
begin=$(date +%s.%N); sleep 0.1; echo "$begin $(date +%s.%N)" >>"${0%/*}/spans-$1"
"""


def spans(path: Path) -> list[tuple[float, float]]:
    """When each COMMAND began and ended, by its own word."""
    found = [line.split() for line in path.read_text().splitlines()]
    return [(float(begin), float(end)) for begin, end in found]


def both(host: Host, *words: str, data: bytes) -> list[int]:
    """Two pools with the same words over the same items, at the same time; their exit codes."""
    pools = [host.start("each", *words, stdin=subprocess.PIPE) for _ in range(2)]
    for pool in pools:
        fed(pool, data)
    return [finish(pool).code for pool in pools]


def test_timeout_and_retries_are_the_items(host: Host) -> None:
    """One that takes too long is stopped and tried again; the others are not held up by it."""
    words = ("each", "-P", "2", "-t", "300ms", "-k", "100ms", "--retries", "1")
    string = "test $1 != slow || sleep 600"
    result = host.run(
        *(*words, "--backoff", "1ms..1ms", "-c", string), data=lines("slow", *range(4))
    )
    assert (result.code, *counted(result, "succeeded", "failed")) == (1, 4, 1), result
    (slow,) = [row for row in host.rows() if row["result"] != "success"]
    assert (slow["result"], slow["exit_code"]) == ("timeout", 124)
    assert len(host.rows("SELECT * FROM attempts")) == 6


def test_a_deadline_is_counted_from_the_items_begin(host: Host) -> None:
    """It ends the item that is too slow, however long the pool takes for all of them."""
    words = ("each", "--deadline", "1s", "-k", "100ms", "-c", 'sleep "$1"')
    result = host.run(*words, data=lines(0.6, 0.6, 600, 0.6))
    assert (result.code, *counted(result, "succeeded", "failed")) == (1, 3, 1), result


def test_a_retry_budget_is_that_of_all_pools(host: Host) -> None:
    """Two pools of one job retry no more than it may, together."""
    words = ("-P", "2", *QUIET, "--retries", "5", "--backoff", "1ms..1ms")
    codes = both(host, *words, "--retry-budget", "3/1h", "--", "false", data=lines(1, 2, 3))
    assert codes == [1, 1]
    assert len(host.rows("SELECT * FROM attempts")) == 6 + 3


def test_a_lock_by_item_is_held_by_one_of_all_pools(host: Host) -> None:
    """What has the same item never overlaps; what has not does not wait for it."""
    timed = write_script(host.root / "timed", TIMED)
    words = ("-P", "3", *QUIET, "--lock", "shard-{item}", "--wait", "1m", "--", str(timed))
    assert both(host, *words, data=lines("a", "b", "a", "b", "a")) == [0, 0]
    for name, count in (("a", 6), ("b", 4)):
        found = spans(host.root / f"spans-{name}")
        assert (len(found), peak(found)) == (count, 1)


def test_two_pools_on_one_input_share_it(host: Host) -> None:
    """With a key each item is executed once, whichever pool comes first to it."""
    words = ("-P", "3", *QUIET, "--key", "k-{item}", "--wait", "1m", "--", host.job)
    assert both(host, *words, data=lines(*range(8))) == [0, 0]
    assert len(host.executions()) == 8


def test_stored_output_is_written_again_line_by_line(host: Host) -> None:
    """--on-duplicate replay: a second call writes what the first one did, in order, with tags."""
    words = ("each", "-P", "3", *QUIET, "--keep-order", "--tag", "--capture", "1M")
    string = 'echo "out $1"; printf "end $1"; echo "err $1" >&2'
    key = ("--key", "{item}", "--on-duplicate", "replay", "-c", string)
    first = host.run(*words, *key, data=lines(1, 2, 3))
    assert said(first) == [f"{at}\t{word} {at}" for at in (1, 2, 3) for word in ("out", "end")]
    again = host.run(*words, *key, data=lines(1, 2, 3))
    assert (again.code, again.stdout, again.stderr) == (0, first.stdout, first.stderr)
    assert len(host.rows("SELECT * FROM attempts")) == 3


def test_output_as_log_lines_and_none(host: Host) -> None:
    """--output json: lines of the log that name the item; discard: nothing."""
    shown = host.run("each", "--output", "json", "-c", 'echo "said $1"', data=lines("a b", 2))
    outputs = [line for line in shown.lines if line["event"] == "output"]
    assert [(line["item"], line["line"]) for line in outputs] == [
        ("a b", "said a b"),
        ("2", "said 2"),
    ]
    dropped = host.run("each", *QUIET, "--output", "discard", "--", "echo", data=lines(1))
    assert (dropped.code, dropped.stdout, dropped.stderr) == (0, b"", b"")


def test_data_and_log_apart(host: Host) -> None:
    """--log-to stderr: stdout is what the items wrote, every byte of it, and nothing else."""
    result = host.run("each", "--log-to", "stderr", "--", "printf", "\\377%s\\n", data=lines(1, 2))
    assert (result.code, result.stdout) == (0, b"\xff1\n\xff2\n")
    assert result.stderr.splitlines()[-1].count(b'"each_finished"') == 1


def test_what_is_wrong_before_the_first_item(host: Host) -> None:
    """Words and templates that no item could make good end the pool: 64, 78; nothing is run."""
    for code, words in (
        (64, ("-c", "echo {item}")),
        (64, ("--jsonl", "-c", "echo {item.a}")),
        (64, ("--", "echo", "{item.a}")),
        (64, ("-P", "0", "--", host.job)),
        (64, ("-0", "--jsonl", "--", host.job)),
        (64, ("--stdin", "inherit", "--", host.job)),
        (64, ("-P", "2")),
        (78, ("--key", "{nothing}", "--", host.job)),
        (78, ("--config", "none.toml", "--", host.job)),
    ):
        result = host.run("each", *words, data=lines(1))
        assert (result.code, result.stdout) == (code, b""), (words, result)
        assert result.stderr.count(b"\n") == 1
    assert host.executions() == []


def test_no_items(host: Host) -> None:
    """An input without items is a success, with a last line that says so."""
    result = host.run("each", "--", host.job, data=b"\n\n\n")
    assert (result.code, result.events, *counted(result, "total")) == (0, ["each_finished"], 0)
