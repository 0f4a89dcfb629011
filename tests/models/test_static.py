"""Decoding over keys and values of a fixed size: the same answers; on a GPU from recorded graphs."""

import pytest
import torch

from vla.models.decoding.allowed import Block, Ordinal
from vla.models.decoding.decode import fast_steps, write
from vla.models.decoding.static import ROOM, StaticSteps
from vla.models.families.hub_session import HubSession
from vla.models.families.tiny import TinySession

ACTIONS = list(range(300, 340))
MEDIAN = Ordinal(torch.tensor(ACTIONS[::-1]), "median")
ALLOWED = [ACTIONS, MEDIAN, [345], ACTIONS, [346], [347], MEDIAN]
BLOCKS = [(), (Block.of([ACTIONS] * 2 + [MEDIAN] * 3, 7, True),), (Block.of([ACTIONS] * 5, 7, False),)]


def assert_same(one, other):
    assert torch.equal(one.ids, other.ids) and torch.allclose(one.logprobs, other.logprobs, atol=1e-4)


@pytest.mark.parametrize("block", BLOCKS, ids=["tokens", "mutual", "causal"])
def test_answers_are_those_of_a_growing_cache(small, prompts, block):
    options = {"block": block[0]} if block else {}
    static = StaticSteps(small[0].get_decoder())
    for _ in range(2):  # the state left by one answer does not affect the next
        assert_same(
            write(TinySession(small[0], *prompts, static), ALLOWED, **options),
            write(TinySession(small[0], *prompts), ALLOWED, **options),
        )
    drawn = [
        write(TinySession(small[0], *prompts, s), ALLOWED, temperature=1.0, samples=2, generator=torch.Generator().manual_seed(0))
        for s in (static, None)
    ]
    assert_same(*drawn)
    assert len(static._steps) == 2  # three rows and six, each model once


def test_an_answer_may_outgrow_its_room(small, prompts):
    static, positions = StaticSteps(small[0].get_decoder()), [ACTIONS] * (ROOM + 20)
    assert_same(write(TinySession(small[0], *prompts, static), positions), write(TinySession(small[0], *prompts), positions))
    assert {room for _, room in static._steps} == {ROOM, 2 * ROOM}


@pytest.mark.parametrize("block", BLOCKS, ids=["tokens", "mutual", "causal"])
@pytest.mark.parametrize("name", ["paligemma", "qwen2.5-vl", "smolvlm"])
def test_public_models_too(hub, name, block):
    model, options = hub.model(name), {"block": block[0]} if block else {}
    static = StaticSteps(model.get_decoder())
    assert StaticSteps.fits(model.get_decoder()) and not isinstance(fast_steps(model), StaticSteps)  # on a CPU
    for _ in range(2):
        ours = write(HubSession(model, hub.prompts(name), static), ALLOWED, **options)
        assert_same(ours, write(HubSession(model, hub.prompts(name)), ALLOWED, **options))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["tiny", "paligemma", "qwen2.5-vl", "smolvlm"])
def test_a_graph_is_recorded_and_replayed(small, prompts, hub, name, compiled, monkeypatch):
    import copy

    model = (copy.deepcopy(small[0]) if name == "tiny" else hub.model(name)).cuda()
    static, replays = fast_steps(model, compiled), []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))[1])

    def answer(static):
        if name == "tiny":
            return write(TinySession(model, *(p.cuda() for p in prompts), static), ALLOWED)
        return write(HubSession(model, {k: v.cuda() for k, v in hub.prompts(name).items()}, static), ALLOWED)

    for _ in range(2):
        assert_same(answer(static), answer(None))
    (step,) = static._steps.values()
    # One token and three forced ones at once; each recorded once, and replayed for all but the prompt's reading.
    assert set(step.recorded) == {(1, 0), (2, 0), (3, 0)} and len(replays) == 2 * 3
