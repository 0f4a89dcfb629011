import dataclasses
import pickle

import numpy as np
import pytest

from vla.contract import Camera, PolicyContract
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.transforms import Augmentation

RNG = np.random.default_rng(0)


def test_making_a_source_touches_no_file():
    RobotSource("/nowhere", weight=2.0)
    with pytest.raises(UserError, match="no dataset card"):
        len(RobotSource("/nowhere"))


def test_chunks_stay_inside_their_episode(robot):
    source = RobotSource(robot, chunk=4)
    assert len(source) == 45
    for i in range(len(source)):
        sample = source.sample(i, RNG)
        length = [3, 5, 4, 6, 2, 7, 3, 5, 4, 6][sample.episode]
        steps = sample.step + np.arange(4)
        assert np.array_equal(sample.mask, steps < length)
        # After the end, the episode's last action is repeated.
        assert np.array_equal(sample.actions[:, 0], np.minimum(steps, length - 1))
        assert np.allclose(sample.actions[:, 1], sample.episode / 10)
        assert np.array_equal(sample.terminate, np.minimum(steps, length - 1) == length - 1)
        assert sample.state.tolist() == [sample.episode, sample.step] and sample.instruction == f"lift {sample.episode}"
        assert list(sample.images) == ["front", "wrist"] and sample.point == (0.25, 0.75) and sample.embodiment == "arm"
        assert abs(sample.images["front"].mean() - (sample.episode * 20 + sample.step)) < 2


def test_chunks_do_not_reach_over_steps_that_were_left_out(make, tmp_path):
    """Episode 3 has six steps; its third opens a new segment."""

    def cut(members):
        info = members["json"]
        return {**members, "json": {**info, "segment": int(info["step"] >= 2)}}

    source = RobotSource(make(tmp_path / "cut", keep=lambda key: key.startswith("e000003"), change=cut), chunk=4)
    assert [source.sample(i, RNG).mask.sum() for i in range(6)] == [2, 1, 4, 3, 2, 1]
    assert source.sample(1, RNG).actions[:, 0].tolist() == [1, 1, 1, 1]


def test_splits_are_by_episode_and_do_not_overlap(robot):
    parts = {s: RobotSource(robot, chunk=1, split=s, holdout=0.3) for s in ("train", "val", "all")}
    episodes = {s: {p.sample(i, RNG).episode for i in range(len(p))} for s, p in parts.items()}
    assert episodes["val"] == {7, 8, 9} and episodes["train"] == set(range(7))
    assert len(parts["train"]) + len(parts["val"]) == len(parts["all"]) and len(parts["val"].actions) == len(parts["val"])


@pytest.mark.parametrize("cache", [False, True])
def test_cached_images_are_the_same_and_read_only(robot, cache):
    source, plain = RobotSource(robot, chunk=1, split="val", cache=cache), RobotSource(robot, chunk=1, split="val")
    again = pickle.loads(pickle.dumps(source))
    for i in (0, len(source) - 1):
        for name in ("front", "wrist"):
            assert np.array_equal(source.sample(i, RNG).images[name], plain.sample(i, RNG).images[name])
            assert np.array_equal(again.sample(i, RNG).images[name], plain.sample(i, RNG).images[name])
    if cache:
        with pytest.raises(ValueError, match="read-only"):
            source.sample(0, RNG).images["front"][0] = 0


def test_first_steps_come_more_often_in_training_alone(robot):
    plain, early = (RobotSource(robot, chunk=1, split="train", holdout=0.3, first_steps=2, first_times=times) for times in (1, 3))
    steps = [early.sample(i, RNG).step for i in range(len(early))]
    episodes = len({early.sample(i, RNG).episode for i in range(len(early))})
    assert len(early) == len(plain) + 2 * 2 * episodes and steps.count(0) == steps.count(1) == 3 * episodes
    assert np.array_equal(early.actions, plain.actions)
    held = [RobotSource(robot, chunk=1, split="val", first_steps=2, first_times=times) for times in (1, 3)]
    assert len(held[0]) == len(held[1])


def test_states_are_noisy_in_training_alone_and_actions_stay(robot):
    def first_sample(split, noise):
        return RobotSource(robot, chunk=1, split=split, holdout=0.3, state_noise=noise).sample(0, np.random.default_rng(1))

    clean, noisy = first_sample("train", 0.0), first_sample("train", 0.1)
    assert not np.array_equal(clean.state, noisy.state) and np.abs(clean.state - noisy.state).max() < 1
    assert np.array_equal(clean.actions, noisy.actions) and noisy.state.dtype == clean.state.dtype
    assert np.array_equal(first_sample("val", 0.0).state, first_sample("val", 0.1).state)
    with pytest.raises(UserError, match="state_noise"):
        first_sample("train", 1.0)


def test_only_so_many_samples_are_used(robot, questions_folder):
    assert len(RobotSource(robot, chunk=1, max_samples=7)) == 7 and len(QuestionSource(questions_folder, max_samples=100)) == 19


def test_descriptions_are_kept_beside_the_shards_until_one_changes(make, tmp_path, monkeypatch):
    folder = make(tmp_path / "x")
    plain = RobotSource(folder, chunk=2)
    samples = [plain.sample(i, np.random.default_rng(0)) for i in range(len(plain))]
    with monkeypatch.context() as patched:
        patched.setattr("vla.datasets.steps._read", None)  # must not be read again
        kept = RobotSource(folder, chunk=2)
        for i, sample in enumerate(samples):
            again = kept.sample(i, np.random.default_rng(0))
            assert all(np.array_equal(getattr(again, name), getattr(sample, name)) for name in vars(sample) if name != "images")
    (folder / "steps.columns").write_bytes(b"broken")
    assert RobotSource(folder, chunk=2).sample(3, RNG).instruction == samples[3].instruction
    (folder / "shard-000004.tar").unlink()
    with pytest.raises(UserError, match="episode"):
        len(RobotSource(folder, chunk=2))


def test_order_of_shards_and_samples_does_not_matter(robot, make, tmp_path):
    other = make(tmp_path / "x", per_shard=7)
    paths = sorted(other.glob("*.tar"))
    for i, path in enumerate(paths):
        path.rename(other / f"shard-1{len(paths) - i:05d}.tar")
    a, b = RobotSource(robot, chunk=3), RobotSource(other, chunk=3)
    assert all(np.array_equal(a.sample(i, RNG).actions, b.sample(i, RNG).actions) for i in range(45))


def test_an_episode_with_a_hole_is_named(make, tmp_path):
    with pytest.raises(UserError, match=r"episode 3 has 5 samples, not the steps 0 to 5"):
        len(RobotSource(make(tmp_path, keep=lambda key: key != "e000003_s0002"), chunk=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action.npy": np.array([np.nan, 0], np.float32)}, r"e000000_s0000\.action\.npy: it holds NaN or infinity in dx"),
        ({"state.npy": np.zeros(3, np.float32)}, r"state\.npy: it has shape"),
        ({"json": {"episode": 0}}, r"json: it lacks step"),
        ({"action.npy": b"rubbish"}, "not an array"),
    ],
)
def test_bad_members_are_named(make, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        len(RobotSource(make(tmp_path, change=lambda members: {**members, **change}), chunk=1))


def test_bad_images_are_named(make, tmp_path):
    small = make(tmp_path, change=lambda members: {**members, "wrist.jpg": np.zeros((8, 8, 3), np.uint8)})
    with pytest.raises(UserError, match=r"e000000_s0000\.wrist\.jpg: the image has shape \(8, 8, 3\), camera wrist"):
        RobotSource(small, chunk=1).sample(0, RNG)


def test_misuse_is_refused(robot, questions_folder):
    with pytest.raises(UserError, match="robot data set, not questions"):
        len(QuestionSource(robot))
    with pytest.raises(UserError, match="chunk length is None"):
        RobotSource(robot).sample(0, RNG)
    with pytest.raises(UserError, match="holdout"):
        RobotSource(robot, split="test")  # type: ignore[arg-type]


def test_questions_are_drawn_by_the_generator(questions_folder):
    source = QuestionSource(questions_folder)
    assert len(source) == 19  # the image without questions is not a sample
    drawn = [source.sample(4, np.random.default_rng(seed)) for seed in range(40)]
    assert {sample.questions[0].type for sample in drawn} == {"where", "colour"}
    for sample in drawn:
        (question,) = sample.questions
        assert question.text.endswith(" 5") and question.answer in (["red"], [(0.5, 0.5)])
        assert abs(sample.images["front"].mean() - 5) < 2
    assert source.sample(4, RNG, which=1).questions[0].answer == ["red"] and len(source.questions(4)) == 2


def test_several_questions_of_an_image_are_different(questions_folder):
    source = QuestionSource(questions_folder, questions_per_image=7, augment=[Augmentation({"front": 4})])
    sample = source.sample(4, np.random.default_rng(1))
    assert sorted(q.type for q in sample.questions) == ["colour", "where"]
    only = QuestionSource(questions_folder, questions_per_image=7, types={"where": 0.0}).sample(4, RNG)
    assert [q.type for q in only.questions] == ["colour"]
    with pytest.raises(UserError, match="questions_per_image 0"):
        QuestionSource(questions_folder, questions_per_image=0)


def test_types_weigh_the_draw_but_not_the_split(questions_folder):
    only = QuestionSource(questions_folder, types={"colour": 0.0}, split="val", holdout=0.25)
    assert all(only.sample(i % len(only), np.random.default_rng(i)).questions[0].type == "where" for i in range(30))
    assert len(only) == len(QuestionSource(questions_folder, split="val", holdout=0.25)) == 5


def test_augmentation_is_applied_and_follows_the_generator(questions_folder):
    source = QuestionSource(questions_folder, types={"colour": 0.0}, augment=[Augmentation({"front": 4}, brightness=0.3)])
    points = {source.sample(3, np.random.default_rng(seed)).questions[0].point for seed in range(20)}
    assert len(points) > 3
    a, b = (source.sample(3, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(a.images["front"], b.images["front"]) and a.questions[0].point == b.questions[0].point


def test_modes_are_drawn_by_their_weights(robot):
    contract = PolicyContract({"arm": RobotSource(robot).card.spec}, modes=("think", "act"), chunk=2)
    source = RobotSource(robot, modes={"think": 3, "act": 1})
    source.bind(contract)
    rng = np.random.default_rng(0)
    drawn = [source.sample(i % 45, rng).mode for i in range(800)]
    assert 0.2 < drawn.count("act") / 800 < 0.3 and set(drawn) == {"think", "act"}
    with pytest.raises(UserError, match="(?s)modes follow.*contract.modes has think, act"):
        RobotSource(robot, modes={"follow": 1}).bind(contract)
    with pytest.raises(UserError, match="modes {'act': 0}"):
        RobotSource(robot, modes={"act": 0})


def test_all_images_of_a_sample_are_augmented_alike(robot):
    source = RobotSource(robot, augment=[Augmentation(brightness=0.5)])
    source.bind(PolicyContract({"arm": source.card.spec}, chunk=2, execute=1, history=3))
    sample = source.sample(5, np.random.default_rng(1))  # the third step of episode 1, whose images are 20 + step
    levels = [int(frame["front"][0, 0, 0]) for frame in (*sample.past, sample.images)]
    assert np.diff(levels).tolist() == [1, 1] and levels[0] != 20


def test_questions_on_steps_are_drawn_in_training_alone(make, tmp_path):
    asked = [{"type": "where", "question": "where is it", "answer": [[0.25, 0.75]]}]
    asked += [{"type": "held", "question": f"what is held {n}", "answer": "nothing"} for n in range(3)]

    def change(members):
        info = members["json"]
        return {**members, "json": {**info, "questions": asked}} if info["step"] % 2 == 0 else members

    folder = make(tmp_path, change=change)
    shifts = [Augmentation({"front": 4})]
    plain = RobotSource(folder, chunk=1, split="train", augment=shifts)
    source = RobotSource(folder, chunk=1, split="train", augment=shifts, questions_per_step=3)
    drawn = set()
    for i in range(12):
        for seed in range(4):
            sample = source.sample(i, np.random.default_rng(seed))
            assert len(sample.questions) == (3 if sample.step % 2 == 0 else 0)
            assert len({q.text for q in sample.questions}) == len(sample.questions)
            # Places move with the image, as the target's does.
            assert all(q.point == sample.point for q in sample.questions if q.type == "where")
            drawn |= {q.text for q in sample.questions}
    assert len(drawn) == 4
    assert plain.sample(0, RNG).questions == source.restricted("val").sample(0, RNG).questions == []
    assert "questions_per_step" in source.settings().keys() - plain.settings().keys()  # older checkpoints can be resumed
    with pytest.raises(UserError, match="questions_per_step -1"):
        RobotSource(folder, questions_per_step=-1)


def test_chosen_cameras_are_all_that_a_sample_has(robot, questions_folder):
    source = RobotSource(robot, chunk=1, cameras=["wrist"])
    whole = RobotSource(robot, chunk=1)
    assert [camera.name for camera in source.card.spec.cameras] == ["wrist"]
    for one in (source, pickle.loads(pickle.dumps(source)), source.restricted("val")):
        assert one.sample(0, RNG).images.keys() == {"wrist"}
    assert np.array_equal(source.sample(3, RNG).images["wrist"], whole.sample(3, RNG).images["wrist"])
    both = RobotSource(robot, chunk=1, cameras=["wrist", "front"])
    assert list(both.sample(0, RNG).images) == ["wrist", "front"]
    assert source.settings() == whole.settings()  # the same samples: a run may be resumed
    # A point is a place in the data's first camera's image.
    assert source.sample(0, RNG).point is None and whole.sample(0, RNG).point
    asked = QuestionSource(questions_folder, cameras=["wrist"])
    assert list(asked.sample(0, RNG, which=1).images) == ["wrist"]
    with pytest.raises(UserError, match="places in answers are in the image of front"):
        asked.sample(0, RNG, which=0)
    for wrong in (["top"], [], ["front", "front"]):
        with pytest.raises(UserError, match="cameras") as error:
            _ = RobotSource(robot, cameras=wrong).card
        assert "front, wrist" in error.value.fix


def test_a_policy_of_one_camera_takes_that_of_the_data(robot):
    spec = RobotSource(robot).card.spec
    source = RobotSource(robot)
    assert source.bind(PolicyContract({"arm": dataclasses.replace(spec, cameras=spec.cameras[1:])}, chunk=2)) is None
    assert source.sample(0, RNG).images.keys() == {"wrist"}
    assert source.demonstrations()[0].images(0).keys() == {"wrist"}


def test_a_contract_of_another_robot_is_refused(robot):
    spec = RobotSource(robot).card.spec
    for embodiments, message in (
        ({"other": spec}, "its robot is arm, the policy is for other"),
        (
            {"arm": dataclasses.replace(spec, cameras=(Camera("top", 8, 8),))},
            "cameras: the policy has top, the data front, wrist",
        ),
        ({"arm": dataclasses.replace(spec, action=spec.state)}, "action: the policy has x, y, the data dx, grip"),
    ):
        with pytest.raises(UserError, match=message):
            RobotSource(robot).bind(PolicyContract(embodiments))
