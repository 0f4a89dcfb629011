"""Which tokens are actions, what is smoothed, and what is measured."""

import dataclasses

import numpy as np
import pytest
import torch

from vla.contract import PolicyContract
from vla.datasets.samples import Question, QuestionSample, RobotSample
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.models.logprobs import scored, token_logprobs
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.training.answers import ActionTokens, Answers
from vla.training.batch import TrainingBatch
from vla.training.measure import Measure, means, merge

IMAGES = {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
QUESTIONS = [Question("where is the red cube", [(0.25, 0.5)], "where"), Question("is it red", ["yes"], "colour")]
CONSTANT = [i for i, c in enumerate(EMBODIMENT.action.constant) if c is not None]


@pytest.fixture(scope="module")
def examples():
    return Encoder(
        PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3, execute=1, plan=("where", "reach")), family_of(*load_vlm("tiny"))
    )


@pytest.fixture(scope="module")
def batch(examples):
    """A row with two questions, and one whose chunk has two real steps of three."""
    # Anywhere between the middles of bins, and past the end whatever.
    space = EMBODIMENT.action
    varied = np.random.default_rng(0).uniform(space.low, space.high, (3, space.size))
    actions = np.where([c is None for c in space.constant], varied, [c or 0.0 for c in space.constant]).astype(np.float32)
    mask = np.array([True, True, False])
    robot = RobotSample(
        IMAGES, np.zeros(5, np.float32), actions, mask, np.array([False, True, True]),
        "lift the red cube", "red cube", (0.25, 0.5), (10, 20, 30, 40), 0, 0, EMBODIMENT_NAME,
    )  # fmt: skip
    samples = [QuestionSample(IMAGES, QUESTIONS), robot]
    built = [examples.build(sample) for sample in samples]
    return TrainingBatch(examples.batch(built), torch.tensor([0, 1]), torch.ones(2), samples)


def scored_tokens(batch):
    sequences = batch.sequences
    positions = scored(sequences.labels)
    return Answers(positions, sequences.inputs.branch), sequences.labels[:, 1:][positions[:, :-1]]


def certain(ids, words):
    """Logits [N, V] of a model that is sure of these."""
    return torch.nn.functional.one_hot(ids, words).float() * 100


def test_actions_are_found_and_their_legal_integers(examples, batch):
    tokens, (answers, ids) = ActionTokens(examples, 5000), scored_tokens(batch)
    action, legal, ordinal = tokens.find(batch.sequences, answers)
    width = EMBODIMENT.action.size + 1
    assert int(action.sum()) == 2 * width and action[-2 * width :].all()
    step = [np.flatnonzero(row).tolist() for row in legal.numpy()]
    assert [len(s) for s in step] == [len(s) for s in examples.codec().positions()][: 2 * width]
    # Without statistics nobody knows that a gripper is open or closed: it is a quantity as any other.
    gripper = EMBODIMENT.action.names.index("gripper")
    assert ordinal.tolist() == [False, *(i not in CONSTANT for i in range(width - 1))] * 2 and gripper not in CONSTANT
    assert step[0] == [0, 1] and all(int(b) in s for b, s in zip(tokens.symbols(ids[action]), step, strict=True))


def test_questions_on_a_robots_images_are_no_actions(examples, batch):
    robot = dataclasses.replace(batch.samples[1], questions=QUESTIONS)
    both = TrainingBatch(examples.batch([examples.build(robot)]), torch.tensor([0]), torch.ones(1), [robot])
    tokens = ActionTokens(examples, 5000)
    found = []
    for one in (batch, both):
        answers, ids = scored_tokens(one)
        action, legal, _ = tokens.find(one.sequences, answers)
        found.append((ids[action], legal))
        seven = certain(torch.full_like(ids, examples.vocabulary.integer_ids[7]), 5000)
        names = ["questions", "robot"] if one is batch else ["robot"]
        measured = Measure(examples, tokens, names)(one, seven, ids, answers, torch.ones(len(one.samples)), mass=True)
        found[-1] += tuple(measured[name] for name in ("plan_token_accuracy", "action_token_accuracy", "valid_mass"))
    assert all(torch.equal(a, b) for a, b in zip(found[0][:2], found[1][:2], strict=True)) and found[0][2:] == found[1][2:]


def test_only_what_has_neighbours_is_smoothed(examples, batch):
    tokens, (answers, ids) = ActionTokens(examples, 5000), scored_tokens(batch)
    logits = torch.randn(len(ids), 5000, generator=torch.Generator().manual_seed(0))
    exact = -token_logprobs(logits, ids)
    smooth = tokens.loss(logits, ids, 2.0, batch.sequences, answers)
    width = EMBODIMENT.action.size + 1
    changed = (smooth != exact).tolist()
    free = [False, *(i not in CONSTANT for i in range(width - 1))]
    assert CONSTANT and changed[-2 * width :] == free * 2
    # Before the actions: places, words and their ends are exact, the four integers of the plan are not.
    assert changed[-2 * width - 4 : -2 * width] == [True] * 4 and not any(changed[: -2 * width - 4])
    assert torch.equal(tokens.loss(logits, ids, 0.0, batch.sequences, answers), exact)


def test_measures_of_a_model_that_knows_and_of_one_that_is_off(examples, batch):
    tokens, (answers, ids) = ActionTokens(examples, 5000), scored_tokens(batch)
    measure = Measure(examples, tokens, ["questions", "robot"])

    def measured(logits):
        return means(merge([measure(batch, logits, ids, answers, torch.tensor([0.5, 2.0]), mass=True)] * 2))

    right = measured(certain(ids, 5000))
    assert right["robot_loss"] == 2 and right["questions_loss"] == 0.5 and right["robot_count"] == 2
    assert right["questions_accuracy/where"] == right["questions_accuracy/colour"] == right["questions_question_accuracy"] == 1
    assert right["action_token_accuracy"] == right["plan_token_accuracy"] == 1 and right["teacher_forced/action_bin_error"] == 0
    assert right["valid_mass"] == pytest.approx(1)

    # Probability on integers that are not legal at their place is no valid mass: bin 7 for everything.
    seven = torch.full_like(ids, examples.vocabulary.integer_ids[7])
    wrong = measured(certain(seven, 5000))
    width = EMBODIMENT.action.size + 1
    free = width - 1 - len(CONSTANT)
    assert wrong["valid_mass"] == pytest.approx(free / width, abs=1e-3)
    assert wrong["questions_question_accuracy"] == 0 and wrong["action_token_accuracy"] == 0

    # Decoded against the true action, unbinned, in halves of a dimension's range: what is sure is off by its bins' width alone.
    codec, truth = examples.codec(), batch.samples[1].actions[:2].astype(np.float64)
    half = (np.array(EMBODIMENT.action.high) - np.array(EMBODIMENT.action.low)) / 2
    varies = [i for i in range(EMBODIMENT.action.size) if i not in CONSTANT]

    def l1(said):
        return np.abs((said - truth) / half)[:, varies].mean()

    binned = codec.decode(codec.encode(batch.samples[1].actions, np.zeros(3, bool))[0])[0][:2]
    assert 0 < right["teacher_forced/action_l1"] == pytest.approx(l1(binned)) and right["teacher_forced/action_l1"] < 1 / 256
    assert wrong["teacher_forced/action_l1"] == pytest.approx(l1(codec.bins.decode(np.full(7, 7))))


def test_a_place_near_the_truth_is_right(examples, batch):
    tokens, (answers, ids) = ActionTokens(examples, 5000), scored_tokens(batch)
    said = ids.clone()
    loc = examples.vocabulary.loc_ids
    said[0] = loc[loc.index(int(ids[0])) + 1]
    found = Measure(examples, tokens, ["questions", "robot"])(
        batch, certain(said, 5000), ids, answers, torch.zeros(2), mass=False
    )
    assert found["questions_accuracy/where"] == (1, 1) and "valid_mass" not in found


def test_rows_that_fill_up_count_nothing(examples, batch):
    tokens, (answers, ids) = ActionTokens(examples, 5000), scored_tokens(batch)
    measure = Measure(examples, tokens, ["questions", "robot"])
    found = measure(
        dataclasses.replace(batch, weight=torch.zeros(2)), certain(ids, 5000), ids, answers, torch.zeros(2), mass=True
    )
    assert not found


@pytest.mark.parametrize("decode", ["mode", "median"])
def test_measures_are_of_what_would_be_decoded(examples, batch, decode):
    """A flat hill about the truth whose highest bin is five off: the mode is off by five, the median by nothing."""
    decoding = Encoder(dataclasses.replace(examples.contract, decode=decode), examples.family)
    tokens, (answers, ids) = ActionTokens(decoding, 5000), scored_tokens(batch)
    logits, vocabulary = certain(ids, 5000), examples.vocabulary
    for table in (vocabulary.integer_ids, vocabulary.loc_ids):
        for place, word in enumerate(ids.tolist()):
            if word in table and 5 <= table.index(word) < len(table) - 5:
                hill = torch.tensor(table[table.index(word) - 5 : table.index(word) + 6])
                logits[place, hill] = 100.0
                logits[place, hill[0]] = 100.1
    found = means(
        merge([Measure(decoding, tokens, ["questions", "robot"])(batch, logits, ids, answers, torch.zeros(2), mass=False)])
    )
    assert found["teacher_forced/action_bin_error"] == pytest.approx(5.0 if decode == "mode" else 0.0, abs=0.5)
    assert found["questions_accuracy/where"] == (decode == "median")
    assert found["questions_accuracy/colour"] == 1
    # Whether the likeliest token is the right one is asked of the model, not of how it is decoded.
    assert found["action_token_accuracy"] < 0.2
