"""Episodes on a Ray cluster of two nodes go as they go on this machine, and survive what happens there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vla.errors import UserError
from vla.sim.rollout import Episode, Workers, rollout

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

EPISODES = [Episode(seed, kind, horizon=5) for seed in range(3) for kind in ("correct", "nonsense")]


def lines(results):
    return [{k: v for k, v in r.to_dict().items() if k not in ("seconds", "restarts")} for r in results]


@pytest.fixture(scope="module")
def cluster(install, tmp_path_factory):
    """Two nodes of one CPU each, as processes of this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    # Its processes find the toy simulation where this file is, and an installed package beside it.
    install(packages := tmp_path_factory.mktemp("packages"))
    paths = os.pathsep.join(
        [
            str(Path(__file__).parents[2] / "examples/extending"),
            str(Path(__file__).parent),
            str(packages),
            os.environ.get("PYTHONPATH", ""),
        ]
    )
    environment = {"env_vars": {"PYTHONPATH": paths}}
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR", runtime_env=environment)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def on_cluster(cluster):
    from vla.sim.cluster import RayWorkers

    return RayWorkers


@pytest.mark.parametrize("trouble", ["raise", *(pytest.param(t, marks=pytest.mark.slow) for t in ("", "kill", "stop"))])
def test_a_rollout_on_a_cluster_is_the_local_one(toy, seeing, tmp_path, on_cluster, trouble):
    with Workers(1, toy()) as workers:
        expected = rollout(seeing(), EPISODES, workers)
    with on_cluster(2, toy(trouble, tmp_path / "marker")) as workers:
        results = rollout(seeing(), EPISODES, workers, deadline=20.0 if trouble == "stop" else 60.0)
    assert lines(results) == lines(expected) and len(workers.restarts) == bool(trouble)
    if trouble:
        assert sum(len(r.more["restarts"]) for r in results) == 1
        why = {"kill": "ActorDied", "raise": "the OpenGL context is lost", "stop": "no answer within 20 s"}[trouble]
        assert why in workers.restarts[0] and "seed 1" in workers.restarts[0]


@pytest.mark.slow
def test_images_and_physics_are_the_local_ones(seeing, on_cluster):
    episodes = [Episode(seed, horizon=4) for seed in range(3)]
    found = []
    for make in (Workers, on_cluster):
        with make(2) as workers:
            found.append(lines(rollout(seeing(), episodes, workers)))
    assert found[0] == found[1]


def test_a_users_simulator_is_known_to_actors(on_cluster):
    with on_cluster(1) as workers:
        (result,) = rollout(None, [Episode(0, task="point-left")], workers)
    assert result.success and result.task == "point-left"


def test_more_workers_than_the_cluster_has_cpus_are_refused(toy, on_cluster):
    with pytest.raises(UserError, match="the cluster has 2 CPUs for 3 workers"):
        on_cluster(3, toy())


@pytest.mark.slow
def test_the_command_evaluates_on_a_cluster(cluster, tmp_path):
    command = [sys.executable, "-m", "vla", "rollout", "--policy", "random", "--episodes", "2", "--horizon", "3"]
    ends = []
    for engine in ("local", "ray"):
        out = ["--engine", engine, "--out", str(tmp_path / engine)]
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        ran = subprocess.run([*command, *out], capture_output=True, text=True, env=environment, timeout=180)
        assert ran.returncode == 0, ran.stderr
        ends.append(sorted(ran.stdout.splitlines()[:-1]))
    assert ends[0] == ends[1]
