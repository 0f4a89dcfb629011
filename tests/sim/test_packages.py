"""Folders of packages: installed as a whole or not at all, checked by hash, named where something is missing."""

import hashlib
import sys
import threading
import zipfile

import pytest

from vla import cli
from vla.commands import sim
from vla.errors import UserError
from vla.sim import packages
from vla.sim.packages import PackageFolder


@pytest.fixture
def wheel(tmp_path):
    """A package of one module, as an index would give it."""
    path = tmp_path / "tinysim-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("tinysim/__init__.py", "VERSION = 1\n")
        content.writestr("tinysim/tasks.txt", "lift\n")
        content.writestr("tinysim-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinysim\nVersion: 1.0\n")
        content.writestr("tinysim-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr("tinysim-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def folder(wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    text = f"tinysim @ {wheel.as_uri()} \\\n    --hash=sha256:{digest}\n"
    return PackageFolder("tiny", "a tiny simulator", 1, 1, text, ("tinysim/__init__.py", "tinysim/tasks.txt"), ("tinysim",))


def left(folder):
    return sorted(path.name for path in folder.folder.parent.glob("*") if not path.name.endswith(".lock"))


def test_it_is_installed_once_and_then_whole(folder, monkeypatch):
    assert folder.missing() == list(folder.parts)
    with pytest.raises(UserError, match="a tiny simulator: not installed") as refused:
        folder.require()
    assert "vla sim install tiny" in str(refused.value) and "1 MB to download" in str(refused.value)
    assert folder.install() == folder.require() and left(folder) == [folder.folder.name]
    monkeypatch.setattr(packages, "_installer", lambda: ["false"])
    assert folder.install() == folder.require(), "nothing is installed again"


def test_a_part_that_is_lost_is_named_and_comes_back(folder):
    folder.install()
    (folder.folder / "tinysim/tasks.txt").unlink()
    with pytest.raises(UserError, match="lacks tinysim/tasks.txt"):
        folder.require()
    folder.install()
    assert not folder.missing()


def test_what_a_killed_installation_left_is_removed(folder):
    unfinished = folder.folder.parent / f".{folder.folder.name}.abc.unfinished"
    unfinished.mkdir(parents=True)
    folder.install()
    assert not unfinished.exists() and not folder.missing()


def test_two_processes_that_install_at_once_agree(folder):
    paths, threads = [], []
    for _ in range(2):
        threads.append(threading.Thread(target=lambda: paths.append(folder.install())))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert paths == [folder.folder] * 2 and left(folder) == [folder.folder.name]


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_a_wrong_hash_keeps_nothing(folder, wheel, tmp_path, installer, monkeypatch):
    if installer == "pip":
        # A folder without uv.
        monkeypatch.setattr(packages.shutil, "which", lambda name: None)
        (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(packages.sys, "executable", str(tmp_path / "python"))
    wrong = PackageFolder("tiny", "it", 1, 1, folder.requirements.replace("sha256:", "sha256:0")[:-2] + "\n", folder.parts)
    with pytest.raises(UserError, match="cannot be installed: .*[Hh]ash"):
        wrong.install()
    assert left(wrong) == []


def test_offline_and_packages_without_the_parts_are_named(folder, wheel):
    offline = PackageFolder("tiny", "it", 1, 1, folder.requirements.replace(wheel.name, "gone-1.0-py3-none-any.whl"), ("a",))
    with pytest.raises(UserError, match="cannot be installed: ") as refused:
        offline.install()
    assert "check the connection" in str(refused.value) and left(offline) == []
    lacking = PackageFolder("tiny", "it", 1, 1, folder.requirements, ("tinysim/more.txt",))
    with pytest.raises(UserError, match="the packages lack tinysim/more.txt"):
        lacking.install()
    large = PackageFolder("tiny", "it", 1, 10**9, folder.requirements, folder.parts)
    with pytest.raises(UserError, match="MB are needed"):
        large.install()


def test_a_process_holds_one_version(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder.install()
    assert folder.enter() == folder.folder and sys.path[0] == str(folder.folder)
    (tmp_path / "other/tinysim").mkdir(parents=True)
    (tmp_path / "other/tinysim/__init__.py").write_text("VERSION = 2\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "other"), *sys.path[1:]])
    import tinysim  # pyright: ignore[reportMissingImports]

    assert tinysim.VERSION == 2
    with pytest.raises(UserError, match="another version of tinysim is loaded"):
        folder.enter()
    del sys.modules["tinysim"]


def test_the_commands_say_what_there_is(folder, monkeypatch, capsys):
    monkeypatch.setattr(sim, "folders", lambda: {"tiny": folder})
    assert cli.main(["sim", "install", "tiny"]) == 0 and cli.main(["sim", "install", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "a tiny simulator: 1 MB to download, 1 MB on the disk (tinysim)" in out and "(was there)" in out
    assert cli.main(["sim", "install", "tabletop"]) == 2 and "'tabletop' needs no installation" in capsys.readouterr().err
    assert cli.main(["sim", "list"]) == 0
    out = capsys.readouterr().out
    assert "tabletop" in out and "290 tasks" in out and "not installed, 550 MB" in out
