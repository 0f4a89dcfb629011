import functools

import numpy as np
import pytest
import torch

from vla.errors import UserError
from vla.models.load import load_vlm
from vla.promptable.cache import CachedRepresentation
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from stable_baselines3.common.vec_env import DummyVecEnv

from vla.rl.envs.babyai import BabyAI
from vla.rl.envs.observation import EnvironmentObservation
from vla.systems.pr2l.observation import PromptedObservation
from vla.systems.pr2l.prompted_vec_env import PromptedVecEnv

LEVEL = functools.partial(BabyAI, "BabyAI-GoToObj-v0")


@pytest.fixture(scope="module")
def representation(vlm):
    settings = Settings(tokens=2, batch=4, words=32, dtype="float16")
    return CachedRepresentation(PromptableRepresentation(*load_vlm(vlm), PromptTemplate("Q: {object}? A:"), settings))


@pytest.mark.parametrize("observe", [("states",), ("answer",), ("oracle",), ("pixels",), ("states", "oracle", "answer")])
def test_what_is_observed_fits_the_space(representation, observe):
    chosen = PromptedObservation(observe=list(observe))
    asks = {"states", "answer"} & set(observe)
    venv = chosen.wrap(DummyVecEnv([LEVEL] * 3), representation if asks else None, BabyAI.fields)
    venv.seed(0)
    entries = {"states": {"tokens", "padding"}, "pixels": {"front"}}
    for observations in (venv.reset(), venv.step(np.array([2, 1, 0]))[0]):
        assert set(observations) == {"state"}.union(*(entries.get(name, {name}) for name in observe))
        assert set(observations) == set(venv.observation_space.spaces)
        for name, space in venv.observation_space.spaces.items():
            assert observations[name].dtype == space.dtype and all(space.contains(row) for row in observations[name])
    venv.close()


def test_states_are_those_of_image_and_prompt_also_of_an_episodes_end(representation):
    inner = DummyVecEnv([LEVEL] * 2)
    venv = PromptedVecEnv(inner, representation, ("states",), BabyAI.fields)
    venv.seed(0)
    venv.reset()
    level = LEVEL()
    over = 0
    level.reset(seed=0)
    fields = None
    for _ in range(150):
        # The first environment by hand; turning round only, so that the horizon ends it.
        view, _, terminated, truncated, info = level.step(1)
        fields = info["fields"]
        observations, _, dones, infos = venv.step(np.array([1, 2]))
        if terminated or truncated:
            over += 1
            expected = representation([[view["front"]]], [fields])
            assert dones[0] and np.array_equal(infos[0]["terminal_observation"]["tokens"], expected.tokens[0].numpy())
            assert not np.array_equal(observations["tokens"][0], expected.tokens[0].numpy())
            break
        expected = representation([[view["front"]]], [fields])
        assert np.array_equal(observations["tokens"][0], expected.tokens[0].numpy())
        assert np.array_equal(observations["padding"][0].astype(bool), expected.padding[0].numpy())
    assert over
    venv.close()
    assert representation.hits.rate > 0.5


def test_one_call_of_the_model_for_all_environments(representation, monkeypatch):
    calls = []
    plain = representation.representation
    original = type(plain)._compute
    monkeypatch.setattr(type(plain), "_compute", lambda self, *a: (calls.append(len(a[1])), original(self, *a))[1])
    venv = PromptedVecEnv(DummyVecEnv([LEVEL] * 4), plain, ("states",), BabyAI.fields)
    venv.seed(7)
    venv.reset()
    venv.step(np.array([2] * 4))
    assert calls == [4, 4]
    venv.close()


def test_what_nobody_gives_is_refused(representation, vlm):
    unknown = PromptableRepresentation(*load_vlm(vlm), PromptTemplate("{target}?"), Settings(batch=1))
    with pytest.raises(UserError, match="unknown field {target}"):
        PromptedVecEnv(DummyVecEnv([LEVEL]), unknown, ("states",), BabyAI.fields)
    with pytest.raises(UserError, match="has no answer"):
        EnvironmentObservation(["answer"]).wrap(DummyVecEnv([LEVEL]), None, BabyAI.fields)


def test_the_extractor_sees_everything(representation):
    from vla.rl.policies.features import PooledFeatures

    chosen = PromptedObservation(observe=["states", "oracle", "pixels"])
    venv = chosen.wrap(DummyVecEnv([LEVEL] * 2), representation, BabyAI.fields)
    venv.seed(0)
    seen = {name: torch.from_numpy(values).float() for name, values in venv.reset().items()}
    seen["front"] = seen["front"].permute(0, 3, 1, 2) / 255
    from stable_baselines3.common.vec_env import VecTransposeImage

    extractor = PooledFeatures(VecTransposeImage(venv).observation_space, width=16, hidden=16, out=8)
    features = extractor(seen)
    assert features.shape == (2, extractor.features_dim) == (2, 10 + 1 + 8 + 8)
    for name in ("tokens", "state", "oracle", "front"):
        other = {**seen, name: seen[name] + 1}
        assert not torch.allclose(extractor(other), features), name
    venv.close()
