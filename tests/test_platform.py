"""The checkout, the wheel and `make setup`: what must hold whatever the code does."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, cwd: Path = ROOT, executable: str | Path = sys.executable, **environment: str) -> str:
    """The standard output of a fresh interpreter; its own errors are the assertion's message."""
    done = subprocess.run(
        [executable, "-c", code], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# The checkout.


@pytest.mark.parametrize("name", ["datasets", "tokenization", "sim", "configs"])
def test_root_link_is_relative_and_leads_into_vla(name):
    assert os.readlink(ROOT / name) == f"vla/{name}"
    assert (ROOT / name).is_dir()


def test_datasets_alone_is_a_bare_folder():
    """import-linter does not see a package without `__init__.py`; `vla.datasets` is a root package of its own there."""
    folders = {file.parent for file in (ROOT / "vla").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == [ROOT / "vla/datasets"]


def test_import_datasets_from_the_root_finds_the_installed_package(tmp_path):
    package = tmp_path / "datasets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    found = python("import datasets; print(datasets.__file__)", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert Path(found) == package / "__init__.py"


def test_small_processes_stay_small():
    """Every module of sim, the simulator itself and policies.base, loaded without torch and transformers."""
    loaded = python(
        "import importlib, pkgutil, sys, vla.sim, vla.policies.base\n"
        "for module in pkgutil.walk_packages(vla.sim.__path__, 'vla.sim.'): importlib.import_module(module.name)\n"
        "import mujoco, robosuite\n"
        "print(sorted({'torch', 'transformers', 'lightning', 'timm'} & set(sys.modules)))"
    )
    assert loaded.splitlines()[-1] == "[]"


# The wheel.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.whl"))


def test_wheel_holds_all_of_vla_and_nothing_else(wheel):
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    package = [p for p in (ROOT / "vla").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sorted(names) == sorted(str(p.relative_to(ROOT)) for p in package)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of a virtual environment with the wheel in it, beside the packages this test runs with."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    # A path file is not read again in the folder that it names: the editable install of this checkout stays out.
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


RL = (Path(sysconfig.get_path("purelib")) / "stable_baselines3").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("rl", [False, pytest.param(True, marks=pytest.mark.skipif(not RL, reason="vla[rl] is not installed"))])
def test_wheel_works_outside_the_checkout(installed, tmp_path, rl):
    code = (
        "import importlib, pathlib, pkgutil, vla\n"
        "from importlib.resources import files\n"
        "import torch, vla.datasets\n"
        "for path, name in ((vla.__path__, 'vla.'), (vla.datasets.__path__, 'vla.datasets.')):\n"
        "    for module in pkgutil.walk_packages(path, name):\n"
        f"        if module.name.startswith(('vla.rl.', 'vla.systems.')) == {rl} and not module.name.endswith('__main__'):\n"
        "            importlib.import_module(module.name)\n"
        "print(pathlib.Path(vla.__file__).parent)\n"
        "print(len([f for f in files('vla.configs').iterdir() if f.name.endswith('.yaml')]))"
    )
    where, configs = python(code, cwd=tmp_path, executable=installed / "bin/python", PYTHONPATH="").splitlines()[-2:]
    assert Path(where).resolve().is_relative_to(installed.resolve())
    assert int(configs) == len(list((ROOT / "vla/configs").glob("*.yaml")))


def test_wheel_brings_the_command(installed, tmp_path):
    done = subprocess.run([installed / "bin/vla", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_wheel_runs_the_demo_in_miniature(installed, tmp_path):
    command = [installed / "bin/vla", "demo", "--smoke", "--out", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=380, env={**os.environ, "PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run/report.html").is_file() and json.loads((tmp_path / "run/report.json").read_text())["served"]


# make setup, with stand-ins for python and uv that log how they are called.

INTERPRETER = """#!/bin/sh
echo "python $*" >> "$LOG"
case "$*" in
  *"%d.%d"*) echo {version} ;;
  "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$(dirname "$0")/uv" .venv/bin/uv ;;
  "-VV") echo "Python {version}" ;;
  *find_library*) [ -z "$NO_RENDERER" ] ;;
  "-m vla.doctor") exit "${{DOCTOR:-0}}" ;;
esac
"""


APT = """#!/bin/sh
echo "apt-get $*" >> "$LOG"
exit "${APT:-0}"
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what setup reads, and `run(**environment)` that runs it there with a stand-in python."""
    for name in ("setup", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    stubs, log = tmp_path / "stubs", tmp_path / "log"
    stubs.mkdir()

    def write(name: str, text: str) -> None:
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)

    write("uv", '#!/bin/sh\necho "uv $*" >> "$LOG"\n')
    # What is installed, root and sudo are each said by a variable; no test may install a library.
    write("dpkg-query", '#!/bin/sh\ncase " $MISSING " in *" $3 "*) ;; *) echo install ok installed ;; esac\n')
    write("id", '#!/bin/sh\necho "${USER_ID:-0}"\n')
    write("sudo", '#!/bin/sh\n[ -n "$SUDO" ] || exit 1\nshift\n"$@"\n')
    write("apt-get", APT)
    write("apt-cache", '#!/bin/sh\nexit "${NO_OSMESA:-0}"\n')

    def run(version: str = "3.12", **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            write(name, INTERPRETER.format(version=version))
        log.write_text("")
        path = f"{stubs}{os.pathsep}{os.environ['PATH']}"
        env = {"HOME": os.environ.get("HOME", "/"), "PATH": path, "LOG": str(log), **environment}
        done = subprocess.run([tmp_path / "setup/setup.sh"], env=env, capture_output=True, text=True, timeout=60)
        return done, [line for line in log.read_text().splitlines() if line.startswith(("uv ", "apt-get "))]

    run.path = tmp_path
    return run


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_setup_refuses_other_pythons_by_name(checkout, version):
    done, installs = checkout(version)
    assert done.returncode == 1
    assert done.stderr.count(f"python3.11 is Python {version}") == 1 and "3.11, 3.12 or 3.13" in done.stderr
    assert not installs and not (checkout.path / ".venv").exists()


def test_setup_refuses_an_environment_of_another_python(checkout):
    assert checkout("3.12")[0].returncode == 0
    interpreter = checkout.path / ".venv/bin/python"
    interpreter.write_text(interpreter.read_text().replace("echo 3.12", "echo 3.10"))
    done, installs = checkout("3.12")
    assert done.returncode == 1 and "Python 3.10" in done.stderr and not installs


def test_setup_installs_once_and_again_only_after_a_change(checkout):
    done, first = checkout()
    assert done.returncode == 0, done.stderr
    assert len(first) == 1 and "--constraint setup/constraints.txt" in first[0] and "--override" in first[0]
    done, second = checkout()
    assert done.returncode == 0 and not second
    with (checkout.path / "setup/constraints.txt").open("a") as file:
        file.write("einops==0.8.1\n")
    done, third = checkout()
    assert done.returncode == 0 and third == first


def test_setup_fails_with_the_doctor_and_is_not_done_then(checkout):
    done, _ = checkout(DOCTOR="1")
    assert done.returncode == 1 and "not ready" in done.stderr
    done, again = checkout(DOCTOR="0")
    assert done.returncode == 0 and again


@pytest.mark.parametrize(
    ("there", "stamped", "free", "needed"),
    [(0, False, 8, 9), (0, False, 9, None), (4, False, 4, 5), (4, False, 5, None), (7, True, 1, 2), (7, True, 2, None)],
)
def test_setup_says_how_much_disk_is_missing(checkout, there, stamped, free, needed):
    """Nothing there yet, an environment that an interrupted set-up left, a whole one to which something changed."""
    if there:
        assert checkout()[0].returncode == 0
        stamp = checkout.path / ".venv/.vla-setup"
        stamp.write_text("of before") if stamped else stamp.unlink()
    for name, line in (("df", f"disk 99 99 {free * 2**20} 88% /"), ("du", f"{there * 2**20} .venv")):
        tool = checkout.path / "stubs" / name
        tool.write_text(f"#!/bin/sh\n{'echo Filesystem' * (name == 'df')}\necho {line}\n")
        tool.chmod(0o755)
    done, installs = checkout()
    if needed:
        assert done.returncode == 1 and not installs
        assert f"{needed} GB of disk" in done.stderr and f"{free} GB are free" in done.stderr
    else:
        assert done.returncode == 0 and installs


EGL = "libegl1 libgl1-mesa-dri libgles2"


@pytest.mark.parametrize("who", [{"USER_ID": "0"}, {"USER_ID": "1000", "SUDO": "yes"}])
@pytest.mark.parametrize("osmesa", [True, False])
def test_setup_installs_missing_libraries_where_it_may(checkout, who, osmesa):
    done, calls = checkout(MISSING=f"{EGL} libosmesa6", NO_OSMESA=str(int(not osmesa)), **who)
    assert done.returncode == 0, done.stderr
    update, install, _ = calls
    assert update.startswith("apt-get update") and EGL in install
    assert ("libosmesa6" in install) == osmesa


def test_setup_prints_the_command_where_nothing_renders_and_it_may_not_install(checkout):
    done, calls = checkout(MISSING=f"{EGL} libosmesa6", USER_ID="1000", NO_RENDERER="1")
    assert done.returncode == 1 and not calls
    assert f"sudo apt-get update && sudo apt-get install -y {EGL} libosmesa6\n" in done.stderr


@pytest.mark.parametrize("missing", ["libosmesa6", EGL])
@pytest.mark.parametrize("who", [{"USER_ID": "1000"}, {"USER_ID": "0", "APT": "100"}])
def test_setup_goes_on_where_another_library_renders(checkout, missing, who):
    """Without rights, or without the distribution's servers."""
    done, calls = checkout(MISSING=missing, **who)
    assert done.returncode == 0, done.stderr
    assert f"going on without {missing}" in done.stdout and f"apt-get install -y {missing}\n" in done.stdout
    assert calls[-1].startswith("uv ")


def test_setup_says_nothing_of_a_fall_back_that_the_distribution_does_not_have(checkout):
    done, _ = checkout(MISSING="libosmesa6", NO_OSMESA="1", USER_ID="1000")
    assert done.returncode == 0 and "osmesa" not in done.stdout + done.stderr


def test_no_registry_or_machine_is_named():
    """Versions only: an index belongs to the machine's own settings."""
    lines = (ROOT / "setup/constraints.txt").read_text().splitlines()
    assert lines and all("==" in line and "@" not in line and "/" not in line for line in lines)
    for file in ("pyproject.toml", "setup/setup.sh", "setup/overrides.txt", "Makefile"):
        text = (ROOT / file).read_text()
        assert "://" not in text and "find-links" not in text and "index-url" not in text
