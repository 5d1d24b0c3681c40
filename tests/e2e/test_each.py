"""``guardrun each`` from outside: items, keys, limits, output, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from pools import children, counted, fed, lines, peak, said, summary, wardens
from support import (
    Host,
    alive,
    eventually,
    finish,
    kill,
    no_survivors,
    sleepers,
    status,
    stubborn_tree,
    waits,
    write_script,
)

QUIET = ("--log-to", "none")
AWAIT_GO = "until test -e go; do sleep 0.02; done"


# ---------------------------------------------------------------- items


def test_every_item_is_one_run(host: Host) -> None:
    """COMMAND is run once for each, which is one word whatever is in it; rows and lines tell so."""
    items = ["one", "two words", 'it\'s "quoted" $HOME `x` \\', "äöü", "{item}", "-n"]
    data = lines(*items) + b"\n\nlast"
    result = host.run("each", "-P", "2", "--", "printf", "[%s]\\n", data=data)
    assert result.code == 0, result
    assert sorted(said(result)) == sorted(f"[{item}]" for item in [*items, "last"])
    assert counted(result, "total", "succeeded") == (7, 7)
    assert [row["result"] for row in host.rows()] == ["success"] * 7
    started = [line for line in result.lines if line["event"] == "run_started"]
    assert sorted(line["item"] for line in started) == sorted([*items, "last"])
    assert len({line["job_id"] for line in started}) == 7


@pytest.mark.parametrize(
    ("words", "data", "expected"),
    [
        (("-0", "--", "printf", "<%s>\\n"), b"a\nb\0\0c", {"<a", "b>", "<c>"}),
        (("--", "echo", "x{item}y", "{other}", "{item}"), b"1\n", {"x1y {other} 1"}),
        (
            ("--jsonl", "--", "echo", "{item.a.b}", "{item.n}"),
            b'{"a": {"b": 1.10}, "n": "x y"}\n',
            {"1.10 x y"},
        ),
        (("-c", 'echo "<$1>"'), b"$(id); x\n", {"<$(id); x>"}),
    ],
    ids=["null", "places", "objects", "shell"],
)
def test_where_an_item_goes(
    host: Host, words: tuple[str, ...], data: bytes, expected: set[str]
) -> None:
    """Items end with a newline or NUL, or are objects; COMMAND's words have places for them."""
    result = host.run("each", *words, data=data)
    assert (result.code, set(said(result))) == (0, expected), result


def test_bytes_that_are_not_utf_8(host: Host) -> None:
    """COMMAND gets them as they are."""
    result = host.run("each", *QUIET, "--", "printf", "%s\\n", data=b"\xff\xfe\n")
    assert (result.code, result.stdout) == (0, b"\xff\xfe\n"), result


@pytest.mark.parametrize(
    ("words", "item", "reason"),
    [
        (("--key", "k-{item}"), b"a\tb", "control character"),
        (("--key", "k-{item}"), b"\xff", "not UTF-8"),
        ((), b"a\0b", "NUL"),
        (("--jsonl",), b"[1]", "not a JSON object"),
        (("--jsonl",), b"nothing", "JSON"),
        (("--jsonl", "--key", "{item.id}"), b"{}", "id"),
    ],
)
def test_an_item_that_cannot_be_a_run(
    host: Host, words: tuple[str, ...], item: bytes, reason: str
) -> None:
    """It is said why, it counts as failed, and the others go on."""
    good = b'{"id": "1"}'
    result = host.run("each", *words, "--", "true", data=b"\n".join([item, good, b""]))
    assert result.code == 1, result
    assert counted(result, "failed", "succeeded") == (1, 1)
    assert reason in result.event("item_refused")["reason"]
    assert len(host.rows()) == 1


@pytest.mark.parametrize(("escape", "reason"), [(r"\ud800", "Unicode"), (r"\u0000", "NUL")])
def test_a_field_that_no_word_can_hold(host: Host, escape: str, reason: str) -> None:
    """It is refused before anything is started for it, and the others go on."""
    items = f'{{"id": "x{escape}"}}\n{{"id": "1"}}\n'
    result = host.run("each", "--jsonl", "--", "true", "{item.id}", data=items.encode())
    assert result.code == 1, result
    assert counted(result, "failed", "succeeded") == (1, 1)
    assert reason in result.event("item_refused")["reason"]
    assert len(host.rows()) == 1


def test_an_item_that_no_word_can_hold(host: Host) -> None:
    """The kernel takes no word of 128 KiB: that run ends with 126, the next one is executed."""
    result = host.run("each", "--", "true", data=b"x" * 1_000_000 + b"\nshort\n")
    assert (result.code, *counted(result, "failed", "succeeded")) == (1, 1, 1), result
    finished = [line for line in result.lines if line["event"] == "run_finished"]
    assert sorted(line["exit_code"] for line in finished) == [0, 126]


def test_an_item_that_is_too_long(host: Host) -> None:
    """Memory is bounded: what came before it is done, and the pool says what is wrong, and 64."""
    result = host.run("each", "--stdin-max", "10K", "--", "true", data=b"one\n" + b"x" * 20_000)
    assert result.code == 64, result
    assert counted(result, "succeeded") == (1,)
    assert "--stdin-max" in summary(result)["reason"]
    assert result.stderr.count(b"\n") == 1


def test_input_is_read_as_places_become_free(host: Host) -> None:
    """Whoever writes an input without end is held back, and memory does not grow."""
    pool = host.start(
        *("each", "-P", "2", *QUIET, "--", host.job),
        stdin=subprocess.PIPE,
        env={"ACT": "exec sleep 600"},
    )
    assert pool.stdin is not None
    fed(pool, lines(1, 2))
    eventually(lambda: len(host.executions()) == 2)
    os.set_blocking(pool.stdin.fileno(), False)
    wrote = 0
    with pytest.raises(BlockingIOError):
        while True:
            wrote += os.write(pool.stdin.fileno(), b"item\n" * 1000)
    assert wrote < 300_000
    assert int(status(pool.pid)["VmRSS"].split()[0]) < 60_000
    pool.kill()
    finish(pool)


# ---------------------------------------------------------------- keys


def test_a_second_call_does_what_is_left(host: Host) -> None:
    """What succeeded is skipped, what failed is run again."""
    words = ("each", "-P", "3", "--key", "k-{item}", "-c", 'test "$1" -ne 3 || test -e ok')
    first = host.run(*words, data=lines(*range(6)))
    assert (first.code, *counted(first, "succeeded", "failed")) == (1, 5, 1), first
    (host.root / "ok").touch()
    second = host.run(*words, data=lines(*range(6)))
    assert (second.code, *counted(second, "succeeded", "skipped_duplicate")) == (0, 1, 5), second


def test_an_item_that_comes_twice(host: Host) -> None:
    """One key in one input is executed once: the second waits for the first."""
    result = host.run(
        *("each", "-P", "4", "--key", "k-{item}", "--", host.job),
        data=lines(*["same"] * 8, "other"),
        env={"ACT": "sleep 0.3"},
    )
    assert (result.code, len(host.executions())) == (0, 2), result
    assert counted(result, "succeeded", "skipped_duplicate") == (2, 7)


def test_needs_are_of_the_item(host: Host) -> None:
    """An item whose need has not succeeded is refused, and counts as failed."""
    assert host.run("--key", "ready-1", "--", "true").code == 0
    result = host.run("each", "--needs", "ready-{item}", "--", "true", data=lines(1, 2))
    assert (result.code, *counted(result, "succeeded", "failed")) == (1, 1, 1), result
    assert {row["result"] for row in host.rows()} == {"success", "precondition_failed"}


def test_the_retry_budget_is_shared(host: Host) -> None:
    """All items retry as often as the job may, and no more."""
    result = host.run(
        *("each", "-P", "3", "--retries", "5", "--backoff", "1ms..2ms"),
        *("--retry-budget", "4/1h", "--", "false"),
        data=lines(*range(6)),
    )
    assert (result.code, *counted(result, "failed")) == (1, 6), result
    assert len(host.rows("SELECT * FROM attempts")) == 6 + 4
    assert "budget_exhausted" in result.events


# ---------------------------------------------------------------- how many at a time


def spans(path: Path) -> list[tuple[float, float]]:
    """When each COMMAND began and ended, by its own word."""
    found = [line.split() for line in path.read_text().splitlines()]
    return [(float(begin), float(end)) for begin, end in found]


TIMED = """#!/bin/sh
begin=$(date +%s.%N); sleep 0.15; echo "$begin $(date +%s.%N)" >>"${0%/*}/spans"
"""


def test_no_more_than_that_at_a_time(host: Host) -> None:
    """-P bounds a pool, and a place does not stay empty while there are items."""
    timed = write_script(host.root / "timed", TIMED)
    result = host.run("each", "-P", "3", *QUIET, "--", str(timed), data=lines(*range(15)))
    assert result.code == 0, result
    assert peak(spans(host.root / "spans")) == 3


def test_slots_bound_all_pools(host: Host) -> None:
    """With -j every running item takes a slot, of all there are on the host."""
    timed = write_script(host.root / "timed", TIMED)
    words = ("each", "-P", "4", *QUIET, "--lock", "api", "-j", "2", "-w", "1m", "--", str(timed))
    pools = [host.start(*words, stdin=subprocess.PIPE) for _ in range(2)]
    for pool in pools:
        fed(pool, lines(*range(8)))
    assert [finish(pool).code for pool in pools] == [0, 0]
    assert len(spans(host.root / "spans")) == 16
    assert peak(spans(host.root / "spans")) == 2


def test_a_busy_lock_is_counted(host: Host) -> None:
    """Who finds its own lock busy, and does not wait, is no failure of COMMAND's."""
    holder = host.hold("--lock", "shard-b")
    result = host.run("each", "--lock", "shard-{item}", "--", "true", data=lines("a", "b"))
    assert (result.code, *counted(result, "succeeded", "lock_busy")) == (1, 1, 1), result
    finish(holder)


def test_halt_after(host: Host) -> None:
    """So many failures end the taking of items."""
    result = host.run("each", "--halt-after", "3", "--", "false", data=lines(*range(50)))
    assert (result.code, *counted(result, "total", "failed")) == (1, 3, 3), result
    assert "halted" in summary(result)["reason"]


# ---------------------------------------------------------------- output


def test_lines_stay_whole(host: Host) -> None:
    """Of any number of writers, however they write; a last line without its end gets one."""
    each = 'printf "%s" "$1:"; sleep 0.0$i; printf "%0900d\\n" $i'
    string = f"for i in 1 2 3 4 5; do {each}; done; printf end"
    result = host.run("each", "-P", "5", *QUIET, "-c", string, data=lines(*"abcde"))
    assert result.code == 0, result
    expected = sorted(
        [*(f"{name}:{i:0900d}" for name in "abcde" for i in range(1, 6)), *["end"] * 5]
    )
    assert sorted(said(result)) == expected


def test_a_long_line_stays_whole(host: Host) -> None:
    """A line that no memory is kept for keeps the others from writing until it ends."""
    string = 'for i in 1 2 3; do head -c 1500000 /dev/zero | tr "\\0" "$1"; done; echo'
    result = host.run("each", "-P", "3", *QUIET, "-c", string, data=lines(*"xyz"), timeout=120)
    assert result.code == 0, result
    assert sorted(said(result)) == [letter * 4_500_000 for letter in "xyz"]


def test_order_and_tags(host: Host) -> None:
    """--keep-order writes in the order of the input, whoever is ready first; --tag says whose."""
    string = "sleep 0.$1; echo begin; sleep 0.$1; echo end >&2; echo end"
    result = host.run(
        *("each", "-P", "4", *QUIET, "--keep-order", "--tag", "-c", string), data=lines(4, 2, 1, 0)
    )
    assert result.code == 0, result
    assert said(result) == [f"{item}\t{word}" for item in (4, 2, 1, 0) for word in ("begin", "end")]
    assert result.stderr.decode().splitlines() == [f"{item}\tend" for item in (4, 2, 1, 0)]


def test_a_loud_follower_is_held_back(host: Host) -> None:
    """With --keep-order who is not first has a bounded part of memory, and nothing is lost."""
    string = f"if test $1 = 0; then {AWAIT_GO}; else yes 123456789 | head -c 20000000; fi"
    with (host.root / "out").open("wb") as out:
        pool = host.start(
            *("each", "-P", "3", *QUIET, "--keep-order", "-c", string),
            stdin=subprocess.PIPE,
            stdout=out,
        )
    fed(pool, lines(0, 1, 2))
    eventually(lambda: len(alive("20000000")) == 2, what="they write")
    assert int(status(pool.pid)["VmRSS"].split()[0]) < 60_000
    (host.root / "go").touch()
    result = finish(pool)
    assert result.code == 0, result
    assert (host.root / "out").read_bytes() == b"123456789\n" * 4_000_000


def test_order_and_slots(host: Host) -> None:
    """With --keep-order slots are had in the order of the input: nobody waits for one behind it."""
    string = 'head -c 1500000 /dev/zero | tr "\\0" "$1"; echo'
    result = host.run(
        *("each", "-P", "4", *QUIET, "--keep-order", "--lock", "api", "-j", "1", "-w", "forever"),
        *("--key", "k-{item}", "-c", string),
        data=lines(*"abcdefgh"),
    )
    assert result.code == 0, result
    assert said(result) == [letter * 1_500_000 for letter in "abcdefgh"]


def test_output_that_nobody_reads(host: Host) -> None:
    """When our stdout is closed no new items are taken: nothing is done for nobody."""
    read, write = os.pipe()
    pool = host.start("each", *QUIET, "--", "echo", stdin=subprocess.PIPE, stdout=write)
    os.close(write)
    os.close(read)
    fed(pool, lines(*range(1000)))
    result = finish(pool)
    assert result.code == 1
    assert len(host.rows()) < 1000


def test_output_of_failed_items_only(host: Host) -> None:
    """--output on-failure shows what a failed item wrote, and nothing of the others."""
    result = host.run(
        *("each", *QUIET, "--output", "on-failure", "-c", "echo out $1; exit $1"), data=lines(0, 1)
    )
    assert (result.code, said(result)) == (1, ["out 1"]), result


def test_quiet_is_for_each_item(host: Host) -> None:
    """-q shows the lines of what went wrong, and none of what did not."""
    good = host.run("each", "-q", "--", "true", data=lines(1, 2))
    assert (good.code, good.stdout, good.stderr) == (0, b"", b"")
    bad = host.run("each", "-q", "-c", "exit $1", data=lines(0, 1))
    assert {line.get("item") for line in bad.lines} == {"1", None}
    assert bad.events[-1] == "each_finished"


# ---------------------------------------------------------------- how it ends


def test_told_to_stop_lets_items_finish(host: Host) -> None:
    """TERM: no new items; those that run end as they would, within --kill-after."""
    pool = host.start(
        *("each", "-P", "2", "-k", "30s", "--", host.job),
        stdin=subprocess.PIPE,
        env={"ACT": AWAIT_GO},
    )
    fed(pool, lines(*range(9)))
    eventually(lambda: len(host.executions()) == 2)
    pool.terminate()
    (host.root / "go").touch()
    result = finish(pool)
    assert result.code == -signal.SIGTERM, result
    assert counted(result, "total", "succeeded") == (2, 2)


@pytest.mark.parametrize(
    "words", [("--lock", "one", "-j", "1"), ("--key", "one")], ids=["slot", "key"]
)
def test_told_to_stop_begins_nothing(host: Host, words: tuple[str, ...]) -> None:
    """TERM: an item that waits for its lock, or for another with its key, is not executed then."""
    pool = host.start(
        *("each", "-P", "3", *words, "--wait", "forever", "-k", "30s", "-c", f"{AWAIT_GO}; exit 1"),
        stdin=subprocess.PIPE,
    )
    fed(pool, lines(1, 1, 1))
    eventually(lambda: wardens(pool) if children(pool.pid) else None)
    eventually(lambda: any(map(children, wardens(pool))), what="the first is executed")
    eventually(lambda: waits(pool.pid), what="the others wait")
    pool.terminate()
    eventually(lambda: len(host.rows("SELECT * FROM runs WHERE result != 'running'")) == 2)
    (host.root / "go").touch()
    result = finish(pool)
    assert result.code == -signal.SIGTERM, result
    assert counted(result, "total", "failed") == (3, 1)
    assert len([line for line in result.lines if line["event"] == "attempt_started"]) == 1


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_told_to_stop_ends_those_that_do_not(
    host: Host, mark: str, signals: tuple[signal.Signals, ...]
) -> None:
    """After --kill-after, or at the second signal, items are stopped with all they started."""
    tree = stubborn_tree(host.root / "tree", mark)
    patience = "300ms" if len(signals) == 1 else "1s"
    pool = host.start(
        *("each", "-P", "2", "-k", patience, "--key", "k-{item}", "--", str(tree)),
        stdin=subprocess.PIPE,
    )
    fed(pool, lines(1, 2, 3))
    sleepers(mark, 8)
    for signum in signals:
        pool.send_signal(signum)
        eventually(lambda: not _pending(pool.pid), what="it is heard")
    result = finish(pool)
    assert result.code == -signals[0], result
    no_survivors(mark, 0.1)
    assert counted(result, "total", "interrupted") == (2, 2)
    assert [row["state"] for row in host.rows("SELECT * FROM keys")] == ["interrupted"] * 2


def _pending(pid: int) -> bool:
    """Whether a signal waits to be read by a process."""
    found = status(pid)
    return bool(int(found["SigPnd"], 16) | int(found["ShdPnd"], 16) & 0x7FFF)


def test_a_killed_pool_leaves_nothing(host: Host, mark: str) -> None:
    """kill -9: all of all items is dead at once; the same call once more needs no surgery."""
    tree = stubborn_tree(host.root / "tree", mark)
    words = ("each", "-P", "3", "--key", "k-{item}", "--on-mismatch", "ignore", "--")
    pool = host.start(*words, str(tree), stdin=subprocess.PIPE)
    fed(pool, lines(1, 2, 3, 4))
    sleepers(mark, 12)
    pool.kill()
    finish(pool)
    no_survivors(mark, 2.0)
    again = host.run(*words, "true", data=lines(1, 2, 3, 4))
    assert (again.code, *counted(again, "succeeded")) == (0, 4), again
    results = sorted(row["result"] for row in host.rows())
    assert results == ["interrupted"] * 3 + ["success"] * 4


@pytest.mark.parametrize("whom", ["warden", "both"])
def test_a_killed_guard_ends_its_item_alone(host: Host, mark: str, whom: str) -> None:
    """kill -9 of what watches one item: it is interrupted, the others and the pool go on."""
    tree = stubborn_tree(host.root / "tree", mark)
    pool = host.start(
        "each", "-P", "2", "-c", f"test $1 = 1 && exec {tree}; {AWAIT_GO}", stdin=subprocess.PIPE
    )
    fed(pool, lines(1, 2))
    sleepers(mark, 4)
    found = {child: children(child)[0] for child in children(pool.pid)}
    backstop, warden = next((above, below) for above, below in found.items() if _has(below, mark))
    for pid in [warden] if whom == "warden" else [backstop, warden]:
        kill(pid)
    no_survivors(mark, 5.0)
    fed(pool, lines(3, 4))
    (host.root / "go").touch()
    result = finish(pool)
    assert (result.code, *counted(result, "succeeded", "interrupted")) == (1, 3, 1), result
    assert all(os.path.exists(f"/proc/{pid}") is False for pid in found)


def test_a_killed_backstop_changes_nothing(host: Host) -> None:
    """kill -9: its item goes on under its warden; the next item of that place has both again."""
    pool = host.start("each", "-c", AWAIT_GO, stdin=subprocess.PIPE)
    fed(pool, lines(1))
    (warden,) = eventually(lambda: wardens(pool) if children(pool.pid) else None)
    (backstop,) = children(pool.pid)
    eventually(lambda: children(warden), what="the item is executed")
    kill(backstop)
    eventually(lambda: warden in children(pool.pid), what="the warden has a new parent")
    (host.root / "go").touch()
    fed(pool, lines(2))
    result = finish(pool)
    assert (result.code, *counted(result, "succeeded")) == (0, 2), result


@pytest.mark.parametrize("whom", ["warden", "backstop", "both"])
def test_killed_while_its_place_is_idle(host: Host, whom: str) -> None:
    """kill -9 of what watched the last item: the next one of that place has others."""
    host.run("--", "true")  # that there is a ledger to look into
    pool = host.start("each", "-c", "true", stdin=subprocess.PIPE)
    fed(pool, lines(1))
    eventually(lambda: [row["result"] for row in host.rows()] == ["success"] * 2)
    (backstop,), (warden,) = children(pool.pid), wardens(pool)
    doomed = {"warden": [warden], "backstop": [backstop], "both": [backstop, warden]}[whom]
    for pid in doomed:
        kill(pid)
    eventually(lambda: all(status(pid).get("State", "Z")[0] in "ZX" for pid in doomed))
    fed(pool, lines(2))
    result = finish(pool)
    assert (result.code, *counted(result, "succeeded")) == (0, 2), result


def _has(pid: int, mark: str) -> bool:
    """Whether a process with ``mark`` is below this one."""
    return any(one in alive(mark) or _has(one, mark) for one in children(pid))


def test_a_daemon_is_left_alone(host: Host, mark: str) -> None:
    """What an item left running at a normal end goes on, also when the pool has ended."""
    string = f"if test $1 = 1; then setsid sleep {mark} >/dev/null 2>&1 & fi"
    result = host.run("each", "-c", string, data=lines(1, 2, 3))
    assert result.code == 0, result
    assert len(alive(mark)) == 1
    assert result.event("orphans_left")["item"] == "1"


def test_dead_daemons_do_not_pile_up(host: Host) -> None:
    """What items left running is reaped when it ends."""
    string = "echo >>ran; sleep 0.2 >/dev/null 2>&1 &"
    pool = host.start("each", *QUIET, "-c", string, stdin=subprocess.PIPE)
    fed(pool, lines(*range(10)))
    ran = host.root / "ran"
    eventually(lambda: ran.exists() and len(ran.read_text()) == 10, what="executed")
    eventually(lambda: len(children(pool.pid)) <= 1, what="reaped")
    assert finish(pool).code == 0


def test_a_warden_is_kept_for_the_next_item(host: Host) -> None:
    """The processes of a place stay from item to item."""
    pool = host.start("each", *QUIET, "--", host.job, stdin=subprocess.PIPE, env={"ACT": "exit 0"})
    seen = set()
    for number in range(1, 5):
        fed(pool, lines(number))
        eventually(lambda number=number: len(host.executions()) == number)  # type: ignore[misc]
        seen |= set(wardens(pool))
    assert len(seen) == 1
    assert finish(pool).code == 0


def test_a_dry_run(host: Host) -> None:
    """It prints the plan and what would be run for each item, and touches nothing."""
    result = host.run(
        *("each", "-P", "3", "--dry-run", "--key", "k-{item}", "--", "cp", "{item}", "/x"),
        data=lines("a", "b"),
    )
    assert result.code == 0, result
    plan, *items = result.lines
    assert (plan["each"]["parallel"], plan["command"]) == (3, ["cp", "{item}", "/x"])
    assert [(one["key"], one["command"]) for one in items] == [
        (f"k-{name}", ["cp", name, "/x"]) for name in "ab"
    ]
    assert not host.state.exists()


def test_without_a_ledger(host: Host) -> None:
    """none: as ledger: items are run, and nothing is remembered."""
    result = host.run("each", "--ledger-url", "none:", "--", "true", data=lines(1, 2))
    assert (result.code, *counted(result, "succeeded"), host.rows()) == (0, 2, []), result
