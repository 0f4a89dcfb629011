"""Who is waited for: streams that are expected to ask soon, and nobody else."""

import asyncio
import time

import pytest

from vla.serving.batching import Batcher
from vla.serving.metrics import Metrics
from vla.serving.options import Options
from vla.serving.pace import ABOUT_S, Pace


def asking_every(seconds, rounds=3):
    """A stream that was answered at 0, 1, 2 … and asks so long after each."""
    pace = Pace()
    for at in range(rounds):
        pace.answered("a", float(at))
        if at < rounds - 1:
            pace.asked("a", at + seconds)
    return pace, float(rounds - 1)


def test_a_stream_is_expected_when_it_usually_asks():
    pace, last = asking_every(0.1)
    assert not pace.coming(last, last + 0.02), "too early: it takes longer than anybody is waited for"
    assert pace.coming(last + 0.09, last + 0.11) == 1
    assert pace.coming(last + 0.15, last + 0.17) == 1, "a little late"
    assert not pace.coming(last + 0.3, last + 0.32), "something has kept it"
    pace.asked("a", last + 0.4)
    assert not pace.coming(last + 0.5, last + 0.52), "it waits already"


def test_a_stream_without_habits_is_expected_at_once_and_not_for_long():
    pace = Pace()
    pace.answered("new", 0.0)
    assert pace.coming(0.01, 0.03) == 1 and not pace.coming(0.05, 0.07)
    pace.answered("new", 1.0)
    pace.gone("new")
    assert not pace.coming(1.0, 1.02)


def test_what_is_silent_for_long_is_forgotten():
    pace, last = asking_every(0.4)
    pace.answered("other", last + 1)
    pace.coming(last + ABOUT_S + 0.01, last + ABOUT_S + 0.02)
    pace.answered("a", last + 5)
    assert not pace.coming(last + 5.39, last + 5.41), "its habits too"


@pytest.mark.parametrize("think", [0.001, 0.006])
def test_clients_in_step_fill_every_batch(policy_class, observed, think):
    """However long they think, as long as they all do."""

    async def scenario():
        policy = policy_class()
        batcher = Batcher(Slow(policy), Options(batch=8), Metrics())
        batcher.start()

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
    """Takes 30 ms a call."""

    def __init__(self, policy):
        self.policy, self.contract = policy, policy.contract

    def act(self, observations):
        time.sleep(0.03)
        return self.policy.act(observations)
