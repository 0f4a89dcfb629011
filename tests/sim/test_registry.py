"""Simulators by name: each in its own room, and a user's, which is an entry point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vla import cli
from vla.errors import UserError
from vla.plugins import plugins
from vla.report import records
from vla.sim.registry import embodiment_of, find_task, simulator_of, simulators, task_for, task_names
from vla.sim.suites import read_suite
from vla.sim.variation import Variation

EXAMPLES, ROOMS = Path(__file__).parents[2] / "examples/extending", ("tabletop", "robosuite", "libero")


@pytest.fixture
def installing(install, tmp_path, monkeypatch):
    """Installs a user's simulator for the duration of a test."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(tmp_path))

    def done(value="point_simulator:SIMULATOR"):
        install(tmp_path, value)
        plugins.cache_clear()
        simulators.cache_clear()

    yield done
    plugins.cache_clear()
    simulators.cache_clear()


def test_tasks_and_who_has_them():
    assert task_names()[:5] == ["lift", "put", "push", "stack", "robosuite-Lift"]
    assert simulator_of("questions").name == simulator_of("push").name == "tabletop"
    assert embodiment_of("robosuite-Wipe")[0] == "robosuite-panda-wiper" and find_task("stack").goals == 2
    assert task_for("robosuite-panda", "robosuite-Door") == "robosuite-Door" and task_for("widowx", "lift") == ""
    for find in (find_task, simulator_of):
        with pytest.raises(UserError, match="unknown task 'fly'"):
            find("fly")
    with pytest.raises(UserError, match="unknown task 'questions'"):
        find_task("questions")


def test_a_users_simulator_is_rolled_out_in_worker_processes(installing, tmp_path, capsys):
    installing()
    suite = tmp_path / "points.yaml"
    suite.write_text("tasks: [point-left, point-right]\nvariations: {seen: {}}\nkinds: correct\nepisodes: 2\n")
    assert cli.main(["rollout", "--policy", "expert", "--suite", str(suite), "--out", str(tmp_path / "out")]) == 0
    episodes = records.load(tmp_path / "out").episodes
    assert [episode.task for episode in episodes] == ["point-left"] * 2 + ["point-right"] * 2
    assert all(episode.success and episode.steps < 9 for episode in episodes)
    record = ["--horizon", "4", "--record", str(tmp_path / "record")]
    assert cli.main(["rollout", "--policy", "random", "--task", "point-left", *record]) == 0
    assert "task: point-left" in (tmp_path / "record/card.yaml").read_text()
    assert cli.main(["collect", "--task", "point-left", "--out", str(tmp_path / "data")]) == 2
    with pytest.raises(UserError, match="point cannot vary its light"):
        read_suite("a", {"tasks": ["point-left"], "variations": {"dim": {"light": 0.5}}, "kinds": ["correct"]}, "a.yaml")
    assert "point collects no data" in capsys.readouterr().err


def test_a_simulator_that_cannot_be_loaded_is_named(installing):
    installing("point_simulator:NOTHING")
    with pytest.raises(UserError, match="point_simulator:NOTHING: it cannot be loaded"):
        find_task("lift")


def test_a_task_that_two_simulators_have_is_refused(installing):
    installing("vla.sim.robosuite.simulator:ROBOSUITE")
    with pytest.raises(UserError, match="robosuite-Lift, .* are taken by simulator robosuite"):
        find_task("lift")


def test_a_suite_of_two_simulators_varies_nothing_that_one_of_them_cannot():
    class Fog(Variation):
        changes = ("fog",)

    for task in ("lift", "robosuite-Lift"):
        simulator_of(task).check(task, Variation("plain"), "a.yaml")
        with pytest.raises(UserError, match="cannot vary its fog"):
            simulator_of(task).check(task, Fog("thick"), "a.yaml")


@pytest.mark.parametrize("name", ROOMS)
def test_a_simulator_loads_no_other_one_and_no_torch(name):
    """Its whole room, with a simulation of it; and its description alone loads neither MuJoCo nor robosuite."""
    others = [f"vla.sim.{other}" for other in ROOMS if other != name]
    code = (
        f"import importlib, pkgutil, sys, vla.sim.{name}.simulator as description\n"
        f"heavy = {{'mujoco', 'robosuite'}} & set(sys.modules)\n"
        f"import vla.sim.{name} as room\n"
        f"for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'): importlib.import_module(module.name)\n"
        f"description.{name.upper()}.simulation()\n"
        f"foreign = [m for m in sys.modules if m.startswith(tuple({others}))]\n"
        f"print(heavy, foreign, {{'torch', 'transformers', 'lightning'}} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "set() [] set()"
