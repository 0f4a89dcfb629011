"""A chunk written at once is learned."""

import dataclasses

import numpy as np
import pytest
import torch

from vla.contract import PolicyContract
from vla.datasets.robot import RobotSource
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.models.logprobs import scored, token_logprobs
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.sequences.batch import BUCKET
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME


@pytest.mark.parametrize("block", ["causal", "bidirectional"])
def test_two_chunks_are_learned_by_heart_and_written_in_one_reading(vlm, data, block):
    torch.manual_seed(0)
    model, processor = load_vlm(vlm)
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=2, plan=(), terminate=False, block=block)
    examples, source = Encoder(contract, family_of(model, processor)), RobotSource(data / "robot", chunk=2)
    samples = [source.sample(step, np.random.default_rng(0)) for step in (0, 6)]
    samples = [
        dataclasses.replace(sample, instruction=words) for sample, words in zip(samples, ("lift the red cube", "go"), strict=True)
    ]
    batch = examples.batch([examples.robot(sample) for sample in samples])
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    losses, positions = [], scored(batch.labels)
    for _ in range(120):
        logits = examples.family.score(model, batch.inputs, positions)
        loss = -token_logprobs(logits, batch.labels[:, 1:][positions[:, :-1]]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3 and losses[-1] < 0.1
    policy = LocalPolicy(model, processor, contract, batch=2)
    calls = []
    model.language.register_forward_hook(lambda *_: calls.append(1))
    chunks = policy.act([Observation(i.instruction, i.images, i.state, i.instruction) for i in samples])
    half = (np.array(EMBODIMENT.action.high) - EMBODIMENT.action.low) / 512
    for sample, chunk in zip(samples, chunks, strict=True):
        assert (abs(chunk.actions - sample.actions) <= half + 1e-6).all()
    lengths = [len(examples.act(Observation("", i.images, i.state, i.instruction)).sequence) for i in samples]
    assert len(calls) == len({-(-length // BUCKET) for length in lengths})
