"""What may be written: whole chunks and nothing else, whatever the codec."""

import copy

import numpy as np
import pytest
import torch
from encoders import acting, changed

from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.models.decoding.allowed import Follow, Ordinal
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.sim.tabletop.embodiment import EMBODIMENT
from vla.tokenization.codecs import SETTINGS


@pytest.mark.parametrize("codec", SETTINGS)
@pytest.mark.parametrize("terminate", [True, False])
def test_every_codec_is_trained_on_what_a_policy_may_write(vlm, data, codec, terminate):
    model, examples = acting(vlm, data, codec, terminate)
    source = RobotSource(data / "robot", chunk=3)
    for step in (0, 4):
        sample = source.sample(step, np.random.default_rng(0))
        example = examples.robot(sample)
        sequence = example.sequence
        written = sequence.ids[sequence.prefix :]
        legal, places = examples.grammar.next(), examples.grammar.allowed()
        for i, one in enumerate(written):
            assert one in legal(written[:i]) and one in places[i]
        assert legal(written) == []
        chunk = examples.chunk(written)
        low, high = np.array(EMBODIMENT.action.low), np.array(EMBODIMENT.action.high)
        off = abs(chunk.actions - sample.actions)[sample.mask] / (high - low)
        assert not chunk.status and off.max() < {"fast": 0.08, "language-table": 0.026, "quantile": 0.1}.get(codec, 0.02)
        assert (chunk.terminate == (sample.terminate if terminate else False))[sample.mask].all()
        # The plan's two and the actions; of a chunk that reaches over the end only what is inside, if that can be told apart.
        assert sequence.loss.sum() == 2 + example.actions
        if codec not in ("fast", "numbers"):
            assert example.actions == sample.mask.sum() * (7 + terminate)
        batch = examples.batch([example])
        loss = model(
            batch.inputs.ids,
            attention_mask=batch.inputs.attention,
            prefix_mask=batch.inputs.group,
            labels=batch.labels,
            **batch.inputs.images,
        ).loss
        assert torch.isfinite(loss)


@pytest.mark.parametrize("codec", SETTINGS)
def test_a_policy_writes_whole_chunks_and_nothing_else(vlm, data, codec):
    """Random weights would write anything: what is written is legal, and the same whatever the company."""
    model, examples = acting(vlm, data, codec)
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    seen = [Observation(str(i), sample.images, sample.state, words) for i, words in enumerate(["go", "lift the cube", "go on"])]
    policy = LocalPolicy(model, examples.family.processor, examples.contract, batch=3, valid_mass=True, probabilities=True)
    low, high = np.array(EMBODIMENT.action.low), np.array(EMBODIMENT.action.high)
    chunks = policy.act(seen)
    for observation, chunk in zip(seen, chunks, strict=True):
        assert not chunk.status and chunk.actions.shape == (3, 7) and "point" in chunk.info
        assert (chunk.actions >= low - 0.01).all() and (chunk.actions <= high + 0.01).all()
        assert (chunk.actions[:, 3:5] == 0).all() and 0 < chunk.info["valid_mass"] < 1
        alone = LocalPolicy(model, examples.family.processor, examples.contract).act([observation])[0]
        assert np.array_equal(alone.actions, chunk.actions) and np.array_equal(alone.terminate, chunk.terminate)
        shares = chunk.info["probabilities"]
        assert len(shares["plan"]) == 2
        assert (
            np.shape(shares["steps"]) == (3, 8)
            if examples.codec().fixed
            else 0 < len(shares["tokens"]) <= examples.codec().longest + 1
        )


@pytest.mark.parametrize("codec", SETTINGS)
def test_a_gripper_that_is_open_or_closed_in_the_data_is_one_or_the_other(vlm, data, codec):
    """Whatever the statistic: random weights would write values in between."""
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    seen = [Observation(str(i), sample.images, sample.state, words) for i, words in enumerate(["go", "lift the cube", "go on"])]
    model, examples = acting(vlm, data, codec, gripper=(0.25, 0.5))
    for decode in ("mode", "median", "local-mean"):
        contract = changed(examples, decode=decode).contract
        policy = LocalPolicy(model, examples.family.processor, contract, batch=3)
        decoded = np.concatenate([chunk.actions for chunk in policy.act(seen)])
        assert np.isin(decoded[:, 6], [0.25, 0.5]).all()


@pytest.mark.parametrize(("codec", "block"), [("uniform", "none"), ("uniform", "causal"), ("numbers", "none"), ("fast", "none")])
def test_a_policy_writes_its_plan_freely_and_whole_chunks_after_it(vlm, data, codec, block):
    """Random weights: words end somewhere or nowhere, and the same in company as alone."""
    model, examples = acting(vlm, data, codec, block=block, plan=("words", "where"), words=5)
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    seen = [Observation(str(i), sample.images, sample.state, words) for i, words in enumerate(["go", "lift the cube", "go on"])]
    end = examples.vocabulary.eos_id
    head = model.get_input_embeddings().weight
    kept = head[end].clone()
    for times in (1, 30):
        with torch.no_grad():
            # Now and then the end is the likeliest word.
            head[end] = kept * times
        policy = LocalPolicy(model, examples.family.processor, examples.contract, batch=3, probabilities=True)
        chunks = policy.act(seen)
        for observation, chunk in zip(seen, chunks, strict=True):
            alone = LocalPolicy(model, examples.family.processor, examples.contract).act([observation])[0]
            assert not chunk.status and chunk.actions.shape == (3, 7) and set(chunk.plan) == {"words", "point"}
            assert alone.plan == chunk.plan and np.array_equal(alone.actions, chunk.actions)
            assert len(chunk.info["probabilities"]["plan"]) == 5 + 2


@pytest.mark.parametrize("codec", ["fast", "numbers"])
def test_what_is_no_whole_chunk_says_so(vlm, data, codec):
    """Written by a decoder that restricts each place alone; and cut off."""
    model, examples = acting(vlm, data, codec)
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    written = examples.robot(sample).sequence
    ids = written.ids[written.prefix :]
    chunk = examples.chunk(ids[:-4])
    assert chunk.status.startswith("malformed: ") and chunk.actions.shape == (0, 7)
    assert examples.chunk(np.append(ids, [ids[-2]] * 5)).status == ""  # after the end nothing counts
    with pytest.raises(UserError, match="not an action token"):
        examples.chunk(np.append(ids[:-1], examples.vocabulary.loc_ids[0]))
    policy = LocalPolicy(model, examples.family.processor, examples.contract)
    policy.encoder.grammar.writing = lambda *_: {"allowed": examples.grammar.allowed(), "eos_id": examples.grammar.ends()}
    (chunk,) = policy.act([Observation("a", sample.images, sample.state, "go")])
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
    written = list(how["allowed"].positions if isinstance(how["allowed"], Follow) else how["allowed"])
    for words, ordinal, legal in zip(written, flags, places, strict=False):
        assert isinstance(words, Ordinal) == ordinal
        if ordinal:
            assert words.words.tolist() == legal and words.statistic == "median"
    if block == "bidirectional":
        assert how["block"].ordinal.tolist() == chunk and how["block"].statistic == "median"
        assert before["block"].statistic == "mode" and not before["block"].ordinal.any()
    before = before["allowed"].positions if isinstance(before["allowed"], Follow) else before["allowed"]
    assert not any(isinstance(words, Ordinal) for words in before)
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    seen = Observation("a", sample.images, sample.state, "go")
    acted = [LocalPolicy(model, e.family.processor, e.contract).act([seen])[0] for e in (examples, median)]
    assert acted[0].info["point"] + acted[0].info["reach"] != acted[1].info["point"] + acted[1].info["reach"]


def test_questions_answered_by_a_place_or_an_integer_take_the_statistic(vlm, data):
    """As a step by step reading says: the likeliest word, or the median of the likeliest word's list."""
    model, examples = acting(vlm, data, "uniform")
    median = changed(examples, decode="median")
    assert not examples.grammar.ordinals() and [len(one.words) for one in median.grammar.ordinals()] == [256, 64]
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    integers, places = (torch.tensor(ids) for ids in (median.vocabulary.integer_ids, median.vocabulary.loc_ids))
    bias = torch.zeros(len(model.get_input_embeddings().weight))
    answers = {}
    for name, table in (("integers", integers), ("places", places)):
        raised = copy.deepcopy(model)
        logits = raised.logits
        raised.logits = lambda hidden, logits=logits, table=table: logits(hidden) + bias.index_fill(0, table, 30.0)
        batch = median.batch([median.ask(sample.images, "where is it")])
        ids, group = batch.inputs.ids, batch.inputs.group
        count = int(batch.inputs.attention.sum())
        ids, group, written = ids[:, :count], group[:, :count], []
        for _ in range(3):
            with torch.inference_mode():
                said = raised(ids, **batch.inputs.images, prefix_mask=group).logits[0, -1].index_select(0, table)
            chosen = table[int((said.softmax(-1).cumsum(-1) < 0.5).sum())]
            written.append(int(chosen))
            ids, group = torch.cat([ids, chosen.view(1, 1)], 1), torch.cat([group, torch.zeros(1, 1, dtype=group.dtype)], 1)
        answers[name] = (
            LocalPolicy(raised, median.family.processor, median.contract).ask([sample.images], ["where is it"], limit=3)[0].text
        )
        assert answers[name] == median.tokenizer.decode(written).strip()
        assert (
            answers[name]
            != LocalPolicy(raised, median.family.processor, examples.contract)
            .ask([sample.images], ["where is it"], limit=3)[0]
            .text
        )


def test_what_has_no_fixed_length_is_not_written_at_once(vlm, data):
    with pytest.raises(UserError, match="codec numbers writes answers of unequal length"):
        acting(vlm, data, "numbers", block="causal")
