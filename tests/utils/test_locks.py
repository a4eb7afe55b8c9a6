"""Locks on outputs."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ohem_d2.utils import locks
from ohem_d2.utils.locks import hold_lock

HOLD = """
import sys, time
from ohem_d2.utils.locks import hold_lock
with hold_lock(sys.argv[1], "it"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    command = [sys.executable, "-W", "ignore", "-c", HOLD, str(tmp_path / "new/x.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_holder_is_refused_and_a_lock_goes_with_its_block(tmp_path):
    for _ in range(2):
        with hold_lock(tmp_path / "x.lock", "output/x"):
            with pytest.raises(
                BlockingIOError, match=f"output/x is in use by process {os.getpid()} on .*wait"
            ):
                with hold_lock(tmp_path / "x.lock", "output/x"):
                    pass
    with pytest.raises(KeyError), hold_lock(tmp_path / "x.lock", ""):
        raise KeyError
    assert not os.listdir(tmp_path)


def test_the_lock_of_a_live_process_is_kept_and_that_of_a_dead_one_taken_over(tmp_path, holder):
    path = tmp_path / "new/x.lock"
    with pytest.raises(BlockingIOError, match=f"x is in use by process {holder.pid}"):
        with hold_lock(path, "x"):
            pass
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, but nobody has asked for its status
    with hold_lock(path, "x"):
        assert json.loads(path.read_bytes())["pid"] == os.getpid()
    assert not os.listdir(path.parent)


def held(tmp_path, **changes):
    path = tmp_path / "x.lock"
    path.write_text(json.dumps({**json.loads(locks._this_process()), **changes}))
    return path


@pytest.mark.parametrize("change", [{"started": "1"}, {"pid": 2**22 + 1}])
def test_a_process_id_that_is_used_again_or_by_nobody_does_not_keep_the_lock(tmp_path, change):
    with hold_lock(held(tmp_path, **change), "x"):
        pass


@pytest.fixture
def fast(monkeypatch):
    """Locks that are touched often, and soon count as dead."""
    monkeypatch.setattr(locks, "_TOUCHED", 0.02)
    monkeypatch.setattr(locks, "_SILENCE", 0.3)


FAR = [{"host": "other"}, {"namespace": "pid:[1]"}]


@pytest.mark.parametrize("change", FAR)
def test_the_lock_of_a_process_that_cannot_be_seen_from_here_is_taken_over_when_it_is_silent(
    tmp_path, fast, change, caplog
):
    path = held(tmp_path, pid=2**22 + 1, **change)
    with hold_lock(path, "x"):
        assert json.loads(path.read_bytes())["pid"] == os.getpid()
    assert f"{path} is held by process {2**22 + 1} on " in caplog.text


@pytest.mark.parametrize("change", FAR)
def test_it_is_kept_while_the_process_touches_it(tmp_path, fast, monkeypatch, change):
    with monkeypatch.context() as there:
        this_process = {**json.loads(locks._this_process()), **change}
        there.setattr(locks, "_this_process", lambda: json.dumps(this_process).encode())
        far = hold_lock(tmp_path / "x.lock", "x")
        far.__enter__()
    with pytest.raises(BlockingIOError, match="x is in use by process"):
        with hold_lock(tmp_path / "x.lock", "x"):
            pass
    far.__exit__(None, None, None)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}', "\0"])
def test_a_lock_that_was_half_written_is_taken_over_when_nobody_touches_it(tmp_path, fast, text):
    (tmp_path / "x.lock").write_text(text)
    with hold_lock(tmp_path / "x.lock", "x"):
        pass
    assert not os.listdir(tmp_path)


def test_a_lock_that_was_given_to_another_stays_when_the_block_ends(tmp_path):
    with hold_lock(tmp_path / "x.lock", "x"):
        held(tmp_path, host="other")
    assert (tmp_path / "x.lock").exists()


def test_who_read_a_dead_lock_before_another_took_it_over_takes_nothing(tmp_path, monkeypatch):
    path = held(tmp_path, started="1")
    require_dead = locks._require_dead

    def slow(*args):
        require_dead(*args)
        monkeypatch.undo()
        stack.enter(path)

    class Stack:
        def enter(self, path):
            self.lock = hold_lock(path, "x")
            self.lock.__enter__()

    stack = Stack()
    monkeypatch.setattr(locks, "_require_dead", slow)
    with pytest.raises(BlockingIOError, match="wait until it ends"):
        with hold_lock(path, "x"):
            pass
    stack.lock.__exit__(None, None, None)
    assert not os.listdir(tmp_path)


def test_of_many_that_find_a_dead_lock_one_has_it_at_a_time(tmp_path):
    def enter(_):
        nonlocal inside
        try:
            with hold_lock(path, "x"):
                inside += 1
                assert inside == 1
                inside -= 1
        except BlockingIOError:
            pass

    for _ in range(20):
        path, inside = held(tmp_path, started="1"), 0
        with ThreadPoolExecutor(8) as pool:
            assert not [
                error
                for error in map(lambda f: f.exception(), [pool.submit(enter, i) for i in range(8)])
                if error
            ]
    assert os.listdir(tmp_path) == []
