"""The head that Stable-Baselines3 trains, and the policy that acts with its weights: the same actions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.sac.policies import MultiInputPolicy as SACPolicy

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.promptable.cache import CachedRepresentation
from vla.promptable.load import load_frozen
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings
from vla.rl.envs.observation import EnvironmentObservation
from vla.rl.envs.registry import EnvironmentOptions
from vla.rl.envs.tabletop import SCALER
from vla.rl.learners.registry import LearnerOptions
from vla.rl.policies.export import act
from vla.rl.policies.features import sb3_policy
from vla.rl.policies.options import PolicyOptions, PoolerOptions
from vla.rl.policies.sb3_to_head import VOCABULARY, unfit, write_policy
from vla.rl.runs.options import BudgetOptions, RunOptions
from vla.rl.runs.runner import fit
from vla.sim.tabletop.embodiment import EMBODIMENT
from vla.systems.pr2l.observation import PromptedObservation

NUMBERS = EMBODIMENT.state.size + len(VOCABULARY.words)
POLICY = PolicyOptions(PoolerOptions(width=16, hidden=16, out=8), net=[12, 8])


def observation(vlm, observe):
    settings = Settings(tokens=1, batch=1, image=False, words=40, layers="mix")
    return PromptedObservation(str(vlm) if "states" in observe else "", -1, "Q: where is the {object}? A:", settings, observe)


@pytest.mark.parametrize("observe", [["states"], ["pixels"], ["states", "pixels"]])
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_the_policy_acts_as_the_trained_head(vlm, tmp_path, algorithm, observe):
    chosen, mix, represent = observation(vlm, observe), 1, None
    observation_spaces = {"state": spaces.Box(-4, 4, (NUMBERS,), np.float32)}
    if "states" in observe:
        made = PromptableRepresentation(*load_frozen(str(vlm)), PromptTemplate(chosen.prompt), chosen.representation)
        represent, mix = CachedRepresentation(made), len(made.layers)
        observation_spaces["tokens"] = spaces.Box(-np.inf, np.inf, made.shape, np.float32)
        observation_spaces["padding"] = spaces.Box(0, 1, made.shape[:1], np.uint8)
    if "pixels" in observe:
        observation_spaces |= {camera.name: spaces.Box(0, 255, (3, 64, 64), np.uint8) for camera in EMBODIMENT.cameras}
    torch.manual_seed(1)
    kind = MultiInputActorCriticPolicy if algorithm == "ppo" else SACPolicy
    whole = spaces.Dict(observation_spaces)
    policy = kind(whole, spaces.Box(-1, 1, (5,), np.float32), lambda _: 0.0, **sb3_policy(POLICY, mix))
    policy.set_training_mode(False)
    with torch.no_grad():
        # Large enough that some actions lie beyond the limits.
        (policy.action_net if algorithm == "ppo" else policy.actor.mu).weight.mul_(50 if algorithm == "ppo" else 4)
    write_policy(tmp_path / "export", policy, POLICY, chosen, represent, "", {})
    acting = load_policy(str(tmp_path / "export"))

    rng = np.random.default_rng(0)
    for goal in ("red cube", "green cylinder"):
        images = {camera.name: rng.integers(0, 255, (64, 64, 3), np.uint8) for camera in EMBODIMENT.cameras}
        state = rng.uniform(EMBODIMENT.state.low, EMBODIMENT.state.high)
        actions = acting.act([Observation("0", images, state, f"Lift the {goal}.")])[0].actions
        words = [word in goal.split() for word in VOCABULARY.words]
        given = {"state": np.array([[*state, *words]], np.float32)}
        given |= {name: np.moveaxis(image, -1, 0)[None] for name, image in images.items() if "pixels" in observe}
        if represent is not None:
            states = represent([list(images.values())], [{"object": goal}])
            given |= {"tokens": states.tokens.float().numpy(), "padding": states.padding.numpy().astype(np.uint8)}
        expected = SCALER.inverse(act(policy, given))
        assert actions.shape == (1, 7) and np.allclose(actions, expected, atol=1e-4)
    assert PolicyContract.load(tmp_path / "export").chunk == 1


@pytest.mark.parametrize(
    ("environment", "observe", "reason"),
    [
        ("BabyAI-GoToLocal-v0", ["pixels"], "BabyAI-GoToLocal-v0"),
        ("tabletop/push", ["pixels"], "more than the goal"),
        ("tabletop/lift", ["oracle"], "oracle"),
        ("tabletop/lift", ["pixels"], ""),
    ],
)
def test_it_is_said_why_a_head_cannot_drive_the_robot(environment, observe, reason):
    why = unfit(environment, EnvironmentObservation(observe), None)
    assert reason in why and bool(reason) == bool(why)


def test_a_head_of_babyai_is_refused_by_name(tmp_path):
    chosen = RunOptions(
        out=str(tmp_path),
        environment=EnvironmentOptions("BabyAI-GoToObj-v0", 1),
        observation=EnvironmentObservation(["oracle"]),
        policy=PolicyOptions(net=[8]),
        learner=LearnerOptions(arguments={"n_steps": 8, "batch_size": 8, "n_epochs": 1}),
        budget=BudgetOptions(steps=8),
    )
    fit(chosen)
    with pytest.raises(UserError, match="trained in BabyAI-GoToObj-v0"):
        load_policy(f"{tmp_path}/export")
