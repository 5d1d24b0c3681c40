"""``guardrun each`` on a terminal, and when one goes away: keys, job control, the bar."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from pools import counted, fed, lines
from support import GUARDRUN, Host, alive, eventually, finish, no_survivors, sleepers, stopped
from test_terminal import CTRL_C, CTRL_Z, Shell, Terminal

QUIET = ("--log-to", "none")


@pytest.fixture
def shell(host: Host) -> Iterator[Shell]:
    """An interactive bash on a terminal of its own."""
    with closing(Shell(host)) as own:
        yield own


def test_ctrl_c_reaches_the_pool_alone(host: Host, shell: Shell) -> None:
    """Items are in groups of their own: what runs ends as it would, and no new ones are taken."""
    (host.root / "items").write_bytes(lines(*range(9)))
    string = "echo >>ran; until test -e go; do sleep 0.02; done; echo ended $1 >>ended"
    shell.guardrun("each", "-P", "2", "-k", "30s", *QUIET, "-c", string, after=" <items")
    ran, ended = host.root / "ran", host.root / "ended"
    eventually(lambda: ran.exists() and len(ran.read_text().splitlines()) == 2, what="two run")
    shell.type(CTRL_C)
    (host.root / "go").touch()
    assert shell.says("$?") == "130"
    assert sorted(ended.read_text().splitlines()) == ["ended 0", "ended 1"]
    assert [row["result"] for row in host.rows()] == ["success"] * 2


def test_ctrl_c_twice_stops_them_now(host: Host, shell: Shell, mark: str) -> None:
    """The second one does not wait for --kill-after, and leaves nothing."""
    (host.root / "items").write_bytes(lines(*[mark] * 5))
    shell.guardrun("each", "-P", "2", "-k", "1h", *QUIET, "--", "sleep", after=" <items")
    sleepers(mark, 2)

    # Two that come before one is read are one: whoever means it presses again.
    def pressed() -> bool:
        shell.type(CTRL_C)
        return not alive(mark)

    eventually(pressed, what="all stopped")
    assert shell.says("$?") == "130"
    assert [row["result"] for row in host.rows()] == ["interrupted"] * 2


def test_ctrl_z_stops_items_as_well(host: Host, shell: Shell, mark: str) -> None:
    """Pool and items are stopped, and `fg` continues all of them."""
    (host.root / "items").write_bytes(lines(1, 2))
    shell.guardrun("each", "-P", "2", *QUIET, "-c", f"exec sleep {mark}", after=" <items")
    pids = sleepers(mark, 2)
    (pool,) = shell.jobs()
    shell.type(CTRL_Z)
    eventually(lambda: all(map(stopped, [pool, *pids])), what="all stopped")
    shell.shows("Stopped")
    shell.type("fg\n")
    eventually(lambda: not any(map(stopped, [pool, *pids])), what="all run")
    assert alive(mark) == pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert shell.says("$?") in ("0", "1")
    assert len(host.rows()) == 2


def test_a_terminal_that_goes_away_tells_to_stop(host: Host, mark: str) -> None:
    """HUP where there is a terminal: items are stopped after --kill-after, and nothing is left."""
    (host.root / "items").write_bytes(lines(mark, mark))
    words = ["each", "-P", "2", "-k", "200ms", *QUIET, "-c", "trap '' HUP; exec sleep $1"]
    script = 'exec "$@" <items 2>err'
    terminal = Terminal(host, ["sh", "-c", script, "sh", *GUARDRUN, *words])
    with closing(terminal):
        sleepers(mark, 2)
        terminal.hang_up()
        no_survivors(mark)
        assert terminal.process.wait(10) == -signal.SIGHUP
    assert [row["result"] for row in host.rows()] == ["interrupted"] * 2


def test_hup_without_a_terminal_is_passed_on(host: Host, mark: str) -> None:
    """It is for the items to make of it what they like; the pool goes on."""
    string = f"trap 'echo HUP >>heard' HUP; sleep {mark} & wait $!; kill $!"
    pool = host.start("each", "-P", "2", "-c", string, stdin=subprocess.PIPE)
    fed(pool, lines(1, 2))
    sleepers(mark, 2)
    pool.send_signal(signal.SIGHUP)
    heard = host.root / "heard"
    eventually(lambda: heard.exists() and heard.read_text() == "HUP\n" * 2, what="both hear it")
    result = finish(pool)
    assert counted(result, "total", "interrupted") == (2, 0), result
    assert alive(mark) == []


def test_a_bar_and_lines_on_one_terminal(host: Host) -> None:
    """The bar is taken away before a line is written, and at the end nothing is left of it."""
    (host.root / "items").write_bytes(lines(*range(6)))
    words = ["each", "-P", "2", *QUIET, "-c", 'sleep 0.3; echo "line $1 is whole"']
    script = 'TERM=xterm; export TERM; exec "$@" <items'
    terminal = Terminal(host, ["sh", "-c", script, "sh", *GUARDRUN, *words])
    with closing(terminal):
        assert terminal.ends() == 0
        screen = terminal.screen()
    shown = [part.rpartition("\r\x1b[K")[2] for part in screen.split("\r\n")]
    assert sorted(shown) == sorted([*(f"line {at} is whole" for at in range(6)), ""]), screen
    assert "running" in screen
