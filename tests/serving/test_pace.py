"""A batch waits for the streams that are expected to send a request soon, and for no others."""

import asyncio
import time

import pytest

from vla.serving.batching import Batcher
from vla.serving.metrics import Metrics
from vla.serving.options import ServerOptions
from vla.serving.pace import EXPIRES_S, Pace


def with_pauses_of(seconds, rounds=3):
    """A stream that was answered at 0, 1, 2 … and sent a request so long after each answer."""
    pace = Pace()
    for at in range(rounds):
        pace.answered("a", float(at))
        if at < rounds - 1:
            pace.requested("a", at + seconds)
    return pace, float(rounds - 1)


def test_a_stream_is_expected_after_its_usual_pause():
    pace, last = with_pauses_of(0.1)
    assert not pace.expected(last, last + 0.02), "too early: its pause is longer than the wait"
    assert pace.expected(last + 0.09, last + 0.11) == 1
    assert pace.expected(last + 0.15, last + 0.17) == 1, "a little late"
    assert not pace.expected(last + 0.3, last + 0.32), "too late: something has delayed it"
    pace.requested("a", last + 0.4)
    assert not pace.expected(last + 0.5, last + 0.52), "its request is waiting already"


def test_a_stream_without_a_known_pause_is_expected_at_once_and_not_for_long():
    pace = Pace()
    pace.answered("new", 0.0)
    assert pace.expected(0.01, 0.03) == 1 and not pace.expected(0.05, 0.07)
    pace.answered("new", 1.0)
    pace.forget("new")
    assert not pace.expected(1.0, 1.02)


def test_a_stream_that_is_silent_for_long_is_forgotten():
    pace, last = with_pauses_of(0.4)
    pace.answered("other", last + 1)
    pace.expected(last + EXPIRES_S + 0.01, last + EXPIRES_S + 0.02)
    pace.answered("a", last + 5)
    assert not pace.expected(last + 5.39, last + 5.41), "its pause too"


@pytest.mark.parametrize("think", [0.001, 0.006])
def test_clients_in_step_fill_every_batch(policy_class, observed, think):
    """Whatever their pause, if it is about the same for all."""

    async def scenario():
        policy = policy_class()
        batcher = Batcher(Slow(policy), ServerOptions(batch=8), Metrics())

        async def client(number):
            for _ in range(12):
                await batcher.act(observed(id=str(number)), "me", 5)
                await asyncio.sleep(think * (1 + number / 8))

        await asyncio.gather(*(client(number) for number in range(8)))
        await batcher.close()
        return policy.batches

    batches = asyncio.run(scenario())
    assert sum(batches) == 96 and len(batches) <= 20, batches


class Slow:
    """A policy that takes 30 ms per call."""

    def __init__(self, policy):
        self.policy, self.contract = policy, policy.contract

    def act(self, observations):
        time.sleep(0.03)
        return self.policy.act(observations)
