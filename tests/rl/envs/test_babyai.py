import numpy as np
import pytest

from vla.errors import UserError

pytest.importorskip("minigrid")

from vla.rl.envs.babyai import COLOURS, SHAPES, SIZE, TILE, BabyAI, cells


@pytest.fixture(scope="module")
def level():
    env = BabyAI("BabyAI-GoToLocal-v0")
    yield env
    env.close()


def test_observations_fit_their_space_and_name_the_goal(level):
    for seed in range(5):
        observation, info = level.reset(seed=seed)
        assert level.observation_space.contains(observation)
        fields = info["fields"]
        assert set(fields) == set(level.fields) and fields["object"] in fields["instruction"]
        goal = [*(c == fields["colour"] for c in COLOURS), *(s == fields["shape"] for s in SHAPES)]
        assert np.array_equal(observation["state"], np.array(goal, np.float32))


def test_drawing_rooms_prints_nothing(level, capfd):
    for seed in range(10):
        level.reset(seed=seed)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["CartPole-v1", "BabyAI-Nothing-v0", "BabyAI-BossLevel-v0"])
def test_what_is_no_level_with_one_object_is_refused(name):
    with pytest.raises(UserError, match="GoToLocal"):
        BabyAI(name)


def test_the_oracle_says_what_the_robot_sees(level):
    rng = np.random.default_rng(0)
    bits = set()
    for seed in range(20):
        observation, _ = level.reset(seed=seed)
        for _ in range(5):
            inner = level._level
            goal = inner.instrs.desc
            assert observation["oracle"][0] == any(inner.agent_sees(*cell) for cell in goal.obj_poss)
            bits.add(float(observation["oracle"][0]))
            observation, _, terminated, truncated, _ = level.step(rng.integers(3))
            if terminated or truncated:
                break
    assert bits == {0.0, 1.0}


def test_cells_are_tokens(level):
    observation, _ = level.reset(seed=0)
    assert SIZE % TILE == 0 and not observation["front"][7 * TILE :].any() and not observation["front"][:, 7 * TILE :].any()
    assert observation["front"][: 7 * TILE, : 7 * TILE].any()


def test_equal_seeds_are_equal_episodes(level):
    other = BabyAI("BabyAI-GoToLocal-v0")
    for observation, again in ((level.reset(seed=3), other.reset(seed=3)), (level.step(2), other.step(2))):
        assert all(np.array_equal(observation[0][name], again[0][name]) for name in observation[0])


@pytest.mark.parametrize(
    ("name", "message"), [("BabyAI-Nowhere-v0", "Nowhere"), ("BabyAI-PutNextLocal-v0", "does not name a single object")]
)
def test_other_levels_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        BabyAI(name)


def test_symbols_in_words_are_what_the_image_shows(level):
    """Every kind of thing has its own look, and one look only."""
    rng, looks = np.random.default_rng(0), {}
    for seed in range(40):
        level.reset(seed=seed)
        image, symbols = level.wander(rng)
        for (x, y), name in cells(symbols).items():
            tile = image[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE].tobytes()
            assert looks.setdefault(name, tile) == tile, name
    assert len(looks) > 12 and len(set(looks.values())) == len(looks)
