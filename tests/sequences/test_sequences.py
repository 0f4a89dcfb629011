"""Samples and observations to masked sequences, and back."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from vla.contract import PolicyContract
from vla.datasets.items import Question, QuestionItem
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.models.decoding.allowed import Follow, Free, Ordinal
from vla.models.decoding.decode import generate
from vla.models.load import load_vlm
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.tokenization.codecs import SETTINGS, fitted
from vla.tokenization.sequence import Role
from vla.training.contract import add_action_tokens


@pytest.fixture(scope="module")
def examples(vlm):
    return Encoder(PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3), load_vlm(vlm)[1])


def test_robot_sequence_scores_what_is_to_be_written_and_no_padding(examples, data):
    source = RobotSource(data / "robot", chunk=3)
    item = source.item(4, np.random.default_rng(0))  # one more step follows
    example = examples.robot(item)
    sequence = example.sequence
    written = sequence.ids[sequence.prefix :]
    assert len(written) == 2 + 3 * 8 and sequence.loss.sum() == 2 + 2 * 8
    assert not sequence.loss[: sequence.prefix].any() and not sequence.loss[-8:].any()
    chunk = examples.chunk(written)
    half = (np.array(EMBODIMENT.action.high) - EMBODIMENT.action.low) / 512
    assert (abs(chunk.actions[:2] - item.actions[:2]) <= half + 1e-6).all()
    assert chunk.terminate.tolist()[:2] == [False, True] and (chunk.actions[:, 3:5] == 0).all()
    assert np.allclose(chunk.info["point"], (0.5, 0.25), atol=1 / 64)
    assert all(i in legal for i, legal in zip(written.tolist(), examples.grammar.allowed(), strict=True))


def test_plan_stands_before_the_actions_and_comes_back(examples, data):
    planning = Encoder(dataclasses.replace(examples.contract, plan=("where", "reach")), examples.processor)
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    sequence = planning.robot(item).sequence
    written = sequence.ids[sequence.prefix :]
    chunk = planning.chunk(written)
    assert len(written) == 2 + 4 + 3 * 8 and chunk.info["reach"] == [10, 20, 30, 40]
    assert np.array_equal(chunk.actions, examples.chunk(examples.robot(item).sequence.ids[-26:]).actions)
    assert all(i in legal for i, legal in zip(written.tolist(), planning.grammar.allowed(), strict=True))
    unknown = planning.robot(dataclasses.replace(item, reach=None)).sequence
    assert len(unknown) == len(sequence) and unknown.loss.sum() == sequence.loss.sum() - 4


def test_words_of_a_plan_are_filled_up_and_come_back(examples, data):
    planning = changed(examples, plan=("words", "where"), words=16, modes=("think", "follow"))
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    said = dataclasses.replace(item, target="the red cube, 2 left of <eos>")
    sequence = planning.robot(said).sequence
    written, scored = sequence.ids[sequence.prefix :], sequence.loss[sequence.prefix :]
    chunk, end = planning.chunk(written), planning.vocabulary.eos_id
    assert chunk.plan["words"] == said.target and np.allclose(chunk.plan["point"], (0.5, 0.25), atol=1 / 64)
    count = written.tolist().index(end)
    assert len(written) == 16 + 2 + 3 * 8 and (written[count:16] == end).all()
    assert scored[: count + 1].all() and not scored[count + 1 : 16].any() and scored[16:].all()
    assert planning.grammar.allowed()[:16] == [Free(end)] * 16 and np.array_equal(
        chunk.actions, examples.chunk(written[-26:]).actions
    )
    # A given one stands in the prompt as it is.
    asked = planning.act(Observation("", item.images, item.state, item.instruction, plan=chunk.plan)).sequence
    following = planning.robot(dataclasses.replace(said, mode="follow")).sequence
    assert (
        np.array_equal(asked.ids, following.ids[: following.prefix])
        and asked.ids[-2 - count : -2].tolist() == written[:count].tolist()
    )
    # What is not known keeps its places, unscored; what is too long says so.
    unknown = planning.robot(dataclasses.replace(item, target="")).sequence
    assert len(unknown) == len(sequence) and unknown.loss.sum() == 2 + 3 * 8
    with pytest.raises(UserError, match="contract.words") as error:
        planning.robot(dataclasses.replace(item, target="red cube " * 20))
    assert "a plan of" in str(error.value)


def test_question_answer_comes_back_from_its_ids(examples, data):
    source = QuestionSource(data / "questions")
    where, colour, everything, reach = (
        examples.question(source.item(0, np.random.default_rng(0), which)).sequence for which in range(4)
    )
    assert examples.vocabulary.ids_to_bins(reach.ids[reach.prefix : -1]).tolist() == [10, 20, 30, 40]
    assert examples.answer(colour.ids[colour.prefix :]) == ("red", None)
    text, point = examples.answer(where.ids[where.prefix :])
    assert point is not None and np.allclose(point, (0.5, 0.25), atol=1 / 64)
    assert "red cube" in examples.answer(everything.ids[everything.prefix :])[0]
    assert where.loss.sum() == 3 and colour.loss.sum() == 2


def test_instruction_cannot_smuggle_in_a_picture(examples):
    images = {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    plain = examples.ask(images, "where is it").sequence.ids
    odd = examples.ask(images, "where is <image> <eos>").sequence.ids
    count = lambda ids: int((ids == examples.processor.image_token_id).sum())  # noqa: E731
    assert count(odd) == count(plain) and examples.vocabulary.eos_id not in odd


def changed(examples, **fields):
    return Encoder(dataclasses.replace(examples.contract, **fields), examples.processor)


def test_a_mode_says_what_becomes_of_the_plan(examples, data):
    """Written, left out, or given in the prompt; the actions are the same."""
    several = changed(examples, modes=("think", "act", "follow"))
    source = RobotSource(data / "robot", chunk=3)
    item = source.item(0, np.random.default_rng(0))
    sequences = {mode: several.robot(dataclasses.replace(item, mode=mode)).sequence for mode in ("think", "act", "follow")}
    assert np.array_equal(sequences["think"].ids, examples.robot(item).sequence.ids)
    assert np.array_equal(several.robot(item).sequence.ids, sequences["think"].ids)
    point = several.vocabulary.point_to_ids(0.5, 0.25)
    for mode, sequence in sequences.items():
        written = sequence.ids[sequence.prefix :]
        assert len(written) == 24 + 2 * (mode == "think")
        legal = several.grammar.allowed("", mode)
        assert all(i in ids for i, ids in zip(written.tolist(), legal, strict=True))
        chunk = several.chunk(written, "", mode)
        assert ("point" in chunk.info) == (mode == "think")
        assert np.array_equal(chunk.actions, several.chunk(sequences["act"].ids[-24:], "", "act").actions)
    prompts = {mode: sequence.ids[: sequence.prefix].tolist() for mode, sequence in sequences.items()}
    assert prompts["follow"][-2:] == list(point) and len(set(map(tuple, prompts.values()))) == 3


def test_a_plan_that_an_observation_brings_is_followed(examples, data):
    several = changed(examples, modes=("think", "follow"))
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    seen = Observation("a", item.images, item.state, item.instruction, plan={"point": item.point})
    asked = several.act(seen).sequence
    trained = several.robot(dataclasses.replace(item, mode="follow", reach=None)).sequence
    assert np.array_equal(asked.ids, trained.ids[: trained.prefix])
    with pytest.raises(UserError, match="not trained to follow"):
        examples.act(seen)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"modes": ("follow", "act")}, "not follow first"),
        ({"modes": ("think",), "plan": ()}, "modes think with plan none"),
        ({"modes": ("act", "act")}, "at most once"),
        ({"history": 0}, "history 0"),
    ],
)
def test_modes_and_histories_that_cannot_be_are_named(examples, fields, match):
    with pytest.raises(UserError, match=match):
        changed(examples, **fields)


@pytest.fixture(scope="module")
def looking_back(vlm):
    """Model and examples with three pictures per camera, two steps apart."""
    model, processor = load_vlm(vlm, history=3)
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3, execute=2, history=3)
    return model, Encoder(contract, processor)


def source_looking_back(data, examples):
    source = RobotSource(data / "robot")
    source.bind(examples.contract)
    return source


def test_history_is_unseen_before_an_episode_begins(looking_back, data):
    _, examples = looking_back
    source = source_looking_back(data, examples)
    plain = RobotSource(data / "robot", chunk=3)
    rng = np.random.default_rng(0)
    for step, there in ((0, [False, False]), (1, [False, False]), (2, [False, True]), (3, [False, True]), (5, [True, True])):
        item = source.item(step, rng)
        assert [frame is not None for frame in item.past] == there
        if there[1]:
            before = plain.item(step - 2, rng).images
            assert all(np.array_equal(item.past[1][name], before[name]) for name in before)
        example = examples.robot(item)
        # Two cameras of 64 and 16 tokens, three times.
        roles = example.sequence.roles[: 3 * 80]
        seen = np.repeat([*there, True], 80)
        assert np.array_equal(roles == Role.IMAGE, seen) and np.array_equal(roles == Role.ABSENT, ~seen)
        batch = examples.batch([example])
        assert batch["attention_mask"][0, : 3 * 80].tolist() == seen.tolist() and batch["pixel_values"].shape == (1, 6, 3, 64, 64)


def test_what_is_unseen_changes_nothing(looking_back, data):
    model, examples = looking_back
    item = source_looking_back(data, examples).item(2, np.random.default_rng(0))
    batch = examples.batch([examples.robot(item)])
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "prefix_mask", "branch_ids")}
    scored = batch["labels"] != -100

    def logits(pixels):
        with torch.inference_mode():
            return model(**inputs, pixel_values=pixels, logits_positions=scored).logits

    pixels = batch["pixel_values"]
    other = pixels.clone()
    other[:, :2] = 1
    assert torch.equal(logits(pixels), logits(other))
    other[:, 2:4] = 1
    assert not torch.allclose(logits(pixels), logits(other))


def test_the_past_in_a_sample_is_what_a_policy_has_seen(looking_back, data):
    """Acting at every second step gives the model what training showed it."""
    model, examples = looking_back
    policy = LocalPolicy(model, examples.processor, examples.contract)
    source = source_looking_back(data, examples)
    written = []
    policy._write = lambda rows, **how: written.append(rows[0]) or real(rows, **how)
    real = LocalPolicy._write.__get__(policy)
    for _ in range(2):
        policy.reset(["a"])
        for step in (0, 2, 4):
            item = source.item(step, np.random.default_rng(0))
            policy.act([Observation("a", item.images, item.state, item.instruction)])
            trained = examples.robot(item)
            prompt = trained.sequence[: trained.sequence.prefix]
            assert np.array_equal(written[-1].sequence.roles, prompt.roles)
            pairs = zip(written[-1].images, trained.images, strict=True)
            assert all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)
    assert not policy._past.keys() - {"a"} and len(policy._past["a"]) == 2


def test_a_picture_from_elsewhere_needs_one_camera(examples):
    picture = {"front": np.zeros((32, 48, 3), np.uint8)}
    example = examples.question(QuestionItem(picture, [Question("what is it", ["a cat"], "caption")]))
    assert (example.sequence.roles == Role.ABSENT).sum() == 16 and example.images[1] is None
    assert examples.batch([example])["pixel_values"].shape == (1, 2, 3, 64, 64)
    with pytest.raises(UserError, match="no picture of camera front, wrist; got"):
        examples.question(QuestionItem({"roof": picture["front"]}, [Question("what is it", ["a cat"], "caption")]))


def acting(vlm, data, codec, terminate=True, **fields):
    """Model and examples for a codec fitted on the data; FAST's tokens are appended."""
    values = RobotSource(data / "robot").actions
    spec = dataclasses.replace(EMBODIMENT.action, statistics={"q01": EMBODIMENT.action.low, "q99": EMBODIMENT.action.high})
    robot = dataclasses.replace(EMBODIMENT, action=spec)
    args = {"vocab_size": 300} if codec == "fast" else {}
    fields = {"tokens": "append" if codec == "fast" else "integers", **fields}
    chosen = PolicyContract({EMBODIMENT_NAME: robot}, chunk=3, codec=codec, codec_args=args, terminate=terminate, **fields)
    contract = fitted(chosen, lambda _: np.stack([values[i : i + 3] for i in range(len(values) - 3)]).astype(float))
    model, processor = load_vlm(vlm)
    add_action_tokens(contract, model, processor.tokenizer)
    return model, Encoder(contract, processor)


@pytest.mark.parametrize("codec", SETTINGS)
@pytest.mark.parametrize("terminate", [True, False])
def test_every_codec_is_trained_on_what_a_policy_may_write(vlm, data, codec, terminate):
    model, examples = acting(vlm, data, codec, terminate)
    source = RobotSource(data / "robot", chunk=3)
    for step in (0, 4):
        item = source.item(step, np.random.default_rng(0))
        example = examples.robot(item)
        sequence = example.sequence
        written = sequence.ids[sequence.prefix :]
        legal, places = examples.grammar.next(), examples.grammar.allowed()
        for i, one in enumerate(written):
            assert one in legal(written[:i]) and one in places[i]
        assert legal(written) == []
        chunk = examples.chunk(written)
        low, high = np.array(EMBODIMENT.action.low), np.array(EMBODIMENT.action.high)
        off = abs(chunk.actions - item.actions)[item.mask] / (high - low)
        assert not chunk.status and off.max() < {"fast": 0.08, "language-table": 0.026, "quantile": 0.1}.get(codec, 0.02)
        assert (chunk.terminate == (item.terminate if terminate else False))[item.mask].all()
        # The plan's two and the actions; of a chunk that reaches over the end only what is inside, if that can be told apart.
        assert sequence.loss.sum() == 2 + example.actions
        if codec not in ("fast", "numbers"):
            assert example.actions == item.mask.sum() * (7 + terminate)
        batch = examples.batch([example])
        loss = model(**{k: v for k, v in batch.items() if k != "branch_ids"}).loss
        assert torch.isfinite(loss)


@pytest.mark.parametrize("codec", SETTINGS)
def test_a_policy_writes_whole_chunks_and_nothing_else(vlm, data, codec):
    """Random weights would write anything: what is written is legal, and the same whatever the company."""
    model, examples = acting(vlm, data, codec)
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    seen = [Observation(str(i), item.images, item.state, words) for i, words in enumerate(["go", "lift the cube", "go on"])]
    policy = LocalPolicy(model, examples.processor, examples.contract, batch=3, valid_mass=True, probabilities=True)
    low, high = np.array(EMBODIMENT.action.low), np.array(EMBODIMENT.action.high)
    chunks = policy.act(seen)
    for observation, chunk in zip(seen, chunks, strict=True):
        assert not chunk.status and chunk.actions.shape == (3, 7) and "point" in chunk.info
        assert (chunk.actions >= low - 0.01).all() and (chunk.actions <= high + 0.01).all()
        assert (chunk.actions[:, 3:5] == 0).all() and 0 < chunk.info["valid_mass"] < 1
        alone = LocalPolicy(model, examples.processor, examples.contract).act([observation])[0]
        assert np.array_equal(alone.actions, chunk.actions) and np.array_equal(alone.terminate, chunk.terminate)
        shares = chunk.info["probabilities"]
        assert len(shares["plan"]) == 2
        assert (
            np.shape(shares["steps"]) == (3, 8)
            if examples.codec().fixed
            else 0 < len(shares["tokens"]) <= examples.codec().longest + 1
        )


@pytest.mark.parametrize(("codec", "block"), [("uniform", "none"), ("uniform", "causal"), ("numbers", "none"), ("fast", "none")])
def test_a_policy_writes_its_plan_freely_and_whole_chunks_after_it(vlm, data, codec, block):
    """Random weights: words end somewhere or nowhere, and the same in company as alone."""
    model, examples = acting(vlm, data, codec, block=block, plan=("words", "where"), words=5)
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    seen = [Observation(str(i), item.images, item.state, words) for i, words in enumerate(["go", "lift the cube", "go on"])]
    end = examples.vocabulary.eos_id
    head = model.get_input_embeddings().weight
    kept = head[end].clone()
    for times in (1, 30):
        with torch.no_grad():
            # Now and then the end is the likeliest word.
            head[end] = kept * times
        policy = LocalPolicy(model, examples.processor, examples.contract, batch=3, probabilities=True)
        chunks = policy.act(seen)
        for observation, chunk in zip(seen, chunks, strict=True):
            alone = LocalPolicy(model, examples.processor, examples.contract).act([observation])[0]
            assert not chunk.status and chunk.actions.shape == (3, 7) and set(chunk.plan) == {"words", "point"}
            assert alone.plan == chunk.plan and np.array_equal(alone.actions, chunk.actions)
            assert len(chunk.info["probabilities"]["plan"]) == 5 + 2


@pytest.mark.parametrize("codec", ["fast", "numbers"])
def test_what_is_no_whole_chunk_says_so(vlm, data, codec):
    """Written by a decoder that restricts each place alone; and cut off."""
    model, examples = acting(vlm, data, codec)
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    written = examples.robot(item).sequence
    ids = written.ids[written.prefix :]
    chunk = examples.chunk(ids[:-4])
    assert chunk.status.startswith("malformed: ") and chunk.actions.shape == (0, 7)
    assert examples.chunk(np.append(ids, [ids[-2]] * 5)).status == ""  # after the end nothing counts
    with pytest.raises(UserError, match="not an action token"):
        examples.chunk(np.append(ids[:-1], examples.vocabulary.loc_ids[0]))
    policy = LocalPolicy(model, examples.processor, examples.contract)
    policy.encoder.grammar.writing = lambda *_: {"allowed": examples.grammar.allowed(), "eos_id": examples.grammar.ends()}
    (chunk,) = policy.act([Observation("a", item.images, item.state, "go")])
    assert chunk.status.startswith("malformed: ") and chunk.actions.shape == (0, 7) and "point" in chunk.info


@pytest.mark.parametrize("codec", SETTINGS)
@pytest.mark.parametrize("block", ["none", "bidirectional"])
def test_the_contracts_statistic_is_that_of_every_ordinal_place(vlm, data, codec, block):
    """Of the plan's places and integers and of quantities, and of no flag, constant, digit or piece; the words' order is that of
    the symbols.
    """
    if block != "none" and codec in ("numbers", "fast"):
        return
    model, examples = acting(vlm, data, codec, plan=("words", "where", "reach"), block=block)
    median = changed(examples, decode="median")
    flags, places, plan = median.grammar.ordinal(), median.grammar.allowed(), median.plan.length()
    assert len(flags) == len(places) and flags[:plan] == [False] * 16 + [True] * 6
    chunk = [bool(place) for place in median.codec().ordinal()]
    assert flags[plan : plan + len(chunk)] == chunk and any(chunk) == (codec not in ("numbers", "fast"))
    how, before = median.grammar.writing(), examples.grammar.writing()
    written = list(how["allowed"].places if isinstance(how["allowed"], Follow) else how["allowed"])
    for words, ordinal, legal in zip(written, flags, places, strict=False):
        assert isinstance(words, Ordinal) == ordinal
        if ordinal:
            assert words.words.tolist() == legal and words.statistic == "median"
    if block == "bidirectional":
        assert how["block"].ordinal.tolist() == chunk and how["block"].statistic == "median"
        assert before["block"].statistic == "mode" and not before["block"].ordinal.any()
    before = before["allowed"].places if isinstance(before["allowed"], Follow) else before["allowed"]
    assert not any(isinstance(words, Ordinal) for words in before)
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    seen = Observation("a", item.images, item.state, "go")
    acted = [LocalPolicy(model, e.processor, e.contract).act([seen])[0] for e in (examples, median)]
    assert acted[0].info["point"] + acted[0].info["reach"] != acted[1].info["point"] + acted[1].info["reach"]


def test_questions_answered_by_a_place_or_an_integer_take_the_statistic(vlm, data):
    """As a step by step reading says: the likeliest word, or the median of the likeliest word's list."""
    model, examples = acting(vlm, data, "uniform")
    median = changed(examples, decode="median")
    assert not examples.grammar.ordinals() and [len(one.words) for one in median.grammar.ordinals()] == [256, 64]
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    integers, places = (torch.tensor(ids) for ids in (median.vocabulary.integer_ids, median.vocabulary.loc_ids))
    bias = torch.zeros(len(model.get_input_embeddings().weight))
    answers = {}
    for name, table in (("integers", integers), ("places", places)):
        raised = copy.deepcopy(model)
        logits = raised.logits
        raised.logits = lambda hidden, logits=logits, table=table: logits(hidden) + bias.index_fill(0, table, 30.0)
        batch = median.batch([median.ask(item.images, "where is it")])
        ids, group = batch["input_ids"], batch["prefix_mask"]
        count = int(batch["attention_mask"].sum())
        ids, group, written = ids[:, :count], group[:, :count], []
        for _ in range(3):
            with torch.inference_mode():
                said = raised(ids, batch["pixel_values"], prefix_mask=group).logits[0, -1].index_select(0, table)
            chosen = table[int((said.softmax(-1).cumsum(-1) < 0.5).sum())]
            written.append(int(chosen))
            ids, group = torch.cat([ids, chosen.view(1, 1)], 1), torch.cat([group, torch.zeros(1, 1, dtype=group.dtype)], 1)
        answers[name] = (
            LocalPolicy(raised, median.processor, median.contract).ask([item.images], ["where is it"], limit=3)[0].text
        )
        assert answers[name] == median.tokenizer.decode(written).strip()
        assert (
            answers[name]
            != LocalPolicy(raised, median.processor, examples.contract).ask([item.images], ["where is it"], limit=3)[0].text
        )


@pytest.mark.parametrize("block", ["causal", "bidirectional"])
def test_a_chunk_is_trained_and_written_at_once(vlm, data, block):
    """What the model is told while it learns is what it is told when it acts: the same losses, from either side."""
    model, examples = acting(vlm, data, "uniform", block=block)
    item = RobotSource(data / "robot", chunk=3).item(4, np.random.default_rng(0))  # one more step follows
    example = examples.robot(item)
    batch, tokens = examples.batch([example]), 3 * 8
    end = len(example.sequence)
    assert (batch["input_ids"][0, end - tokens : end] == examples.tokenizer.pad_token_id).all()
    assert batch["labels"][0, end - tokens : end - 8].tolist() == example.sequence.ids[end - tokens : end - 8].tolist()
    assert (batch["labels"][0, end - 8 : end] == -100).all() and batch["attention_mask"][0, end - tokens : end].all()
    names = ("input_ids", "prefix_mask", "attention_mask", "pixel_values")
    with torch.inference_mode():
        logits = model(*(batch[n] for n in names[:1]), **{n: batch[n] for n in names[1:]}).logits[0]
    # Acting, with the truth for the plan, since what is written after it depends on it.
    prompt = dataclasses.replace(example, sequence=example.sequence[: example.sequence.prefix], block=0)
    how = examples.grammar.writing()
    how["allowed"] = [[i] for i in example.sequence.ids[example.sequence.prefix : end - tokens].tolist()]
    fed = examples.batch([prompt], 1)
    out = generate(model, *(fed[n] for n in names), **how)
    places = examples.codec().places()
    for place, symbols in enumerate(places):
        told = logits[end - tokens - 1 + place, examples.vocabulary.symbols_to_ids(symbols)].log_softmax(-1).max()
        assert torch.allclose(told, out.logprobs[0, 2 + place], atol=1e-4)
    (chunk,) = LocalPolicy(model, examples.processor, examples.contract).act([Observation("a", item.images, item.state, "go")])
    assert not chunk.status and chunk.actions.shape == (3, 7)


def test_what_has_no_fixed_length_is_not_written_at_once(vlm, data):
    with pytest.raises(UserError, match="codec numbers writes answers of unequal length"):
        acting(vlm, data, "numbers", block="causal")


def test_pictures_may_follow_the_words(vlm, data):
    model, examples = acting(
        vlm, data, "uniform", prompt="to {instruction}: {images} state: {state} A:", question="{question} {images}"
    )
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    example = examples.robot(item)
    images = np.flatnonzero(example.sequence.roles == Role.IMAGE)
    assert images[0] > 5 and (example.sequence.branch == (np.arange(len(example.sequence)) > images[-1])).all()
    batch = examples.batch([example])
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "prefix_mask", "pixel_values")}
    with torch.inference_mode():
        there = batch["attention_mask"]
        told = model(**inputs, branch_ids=batch["branch_ids"]).logits[there]
        assert torch.allclose(told, model(**inputs).logits[there], atol=1e-5)
    assert LocalPolicy(model, examples.processor, examples.contract).act([Observation("a", item.images, item.state, "go")])
    asked = [Question("what is it", ["red"], "colour"), Question("where is it", [(0.5, 0.5)], "where")]
    assert examples.question(QuestionItem(item.images, asked[:1])).sequence.loss.sum() == 2
    with pytest.raises(UserError, match="several questions before the same pictures"):
        examples.question(QuestionItem(item.images, asked))


def test_a_chat_is_one_sequence_like_any_other(vlm, data):
    model, examples = acting(vlm, data, "uniform")
    tokenizer = examples.processor.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}<bos>{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}<eos>{% endif %}"
    )
    chatting = changed(examples, chat=True)
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    plain, chat = examples.robot(item).sequence, chatting.robot(item).sequence
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    without = chat.ids[(chat.ids != bos) & (chat.ids != eos)]
    assert np.array_equal(without, plain.ids) and chat.ids[0] == bos and len(chat) == len(plain) + 2
    question = QuestionItem(
        item.images, [Question("what is it", ["red"], "colour"), Question("where is it", [(0.5, 0.5)], "where")]
    )
    sequence = chatting.question(question).sequence
    assert (sequence.ids == bos).sum() == 1 and sequence.branch.max() == 2
