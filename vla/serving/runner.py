"""The one thread in which a server's policy runs."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vla.policies.base import ActionChunk, Observation, Policy


class PolicyFault(RuntimeError):
    """The policy's answer breaks its own contract: the server's fault, not the client's."""


class Runner:
    """Calls a blocking policy from an event loop, one call at a time and always from the same thread."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")

    async def act(self, observation: Observation) -> tuple[ActionChunk, float]:
        """The chunk, and the milliseconds that the policy took.

        Raises:
            PolicyFault: the answer does not fit the contract; whatever the policy itself raises.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._act, observation)

    async def reset(self, ids: list[str]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self.policy.reset, ids)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _act(self, observation: Observation) -> tuple[ActionChunk, float]:
        start = time.perf_counter()
        chunks = self.policy.act([observation])
        milliseconds = 1e3 * (time.perf_counter() - start)
        size = self.policy.contract.embodiment(observation.embodiment).action.size
        if len(chunks) != 1:
            raise PolicyFault(f"{len(chunks)} chunks for one observation")
        actions, terminate = np.asarray(chunks[0].actions, np.float64), np.asarray(chunks[0].terminate, bool)
        if actions.ndim != 2 or actions.shape[1] != size or len(terminate) != len(actions) or not np.isfinite(actions).all():
            raise PolicyFault(f"actions {actions.shape} (finite: {np.isfinite(actions).all()}), terminate {terminate.shape}")
        return ActionChunk(actions, terminate, chunks[0].info, chunks[0].status), milliseconds
