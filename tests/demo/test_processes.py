"""Child processes end with their block: first by SIGTERM, then by SIGKILL."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vla.demo.folder import locked
from vla.demo.processes import Interrupted, child, interruptible
from vla.errors import UserError

SAVES = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""
DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
time.sleep(60)
"""


def python(program, *arguments):
    return [sys.executable, "-c", program, *map(str, arguments)]


def test_a_child_may_save_before_it_ends(tmp_path):
    with (
        pytest.raises(Interrupted) as caught,
        interruptible(),
        child(python(SAVES, tmp_path / "file"), 20, stdout=subprocess.PIPE) as process,
    ):
        process.stdout.readline()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    assert caught.value.number == signal.SIGTERM and str(caught.value) == "SIGTERM"
    assert process.returncode == 143 and (tmp_path / "file").read_text() == "saved"


def test_a_child_that_does_not_listen_is_killed_with_all_that_it_started():
    with child(python(DEAF), 0.2, stdout=subprocess.PIPE) as process:
        grandchild = psutil.Process(int(process.stdout.readline()))
    assert process.returncode == -signal.SIGKILL
    psutil.wait_procs([grandchild], timeout=5)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_signals_are_as_before_afterwards_and_ignored_ones_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) is not handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_folder_is_held_by_one_process_and_by_what_outlives_it(tmp_path):
    folder = tmp_path / "run"
    with locked(folder) as lock:
        survivor = subprocess.Popen(python("import time; time.sleep(60)"), pass_fds=(lock,))
        with pytest.raises(UserError, match="is running in this folder"), locked(folder):
            pass
    try:
        with pytest.raises(UserError, match="is running in this folder"), locked(folder):
            pass
    finally:
        survivor.kill()
        survivor.wait()
    with locked(folder):
        pass


def test_only_a_demo_is_emptied(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="something other than a demo"), locked(tmp_path / "mine", fresh=True):
        pass
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "mine" / "stages.json").write_text("{}")
    with locked(tmp_path / "mine", fresh=True):
        assert [p.name for p in (tmp_path / "mine").iterdir()] == [".lock"]
