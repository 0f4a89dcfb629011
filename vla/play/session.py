"""What is played: a scene, the policies that act in it side by side, and what they do. No web here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vla.contract import Embodiment
from vla.datasets.shards import encode_jpeg
from vla.errors import UserError
from vla.evaluation.run import seen_by
from vla.observation import ActionChunk, Observation
from vla.play.takes import Take, Takes
from vla.policies.base import Policy, RecedingHorizon, check_answers
from vla.protocols.wire import plain
from vla.sim.episodes import Episode, Result
from vla.sim.registry import embodiment_of, find_task, simulator_of, task_names
from vla.sim.rollout import DEADLINE
from vla.sim.simulator import Advice, View
from vla.sim.suites import Suite, known_suites, load_suite
from vla.sim.workers import Argument, Fault, Worker, Workers
from vla.space import Space

Actor = Literal["policy", "expert"]
PAST = 30
"""Number of actions carried out that are plotted where a policy gives one at a time."""
QUALITY = 90
"""Of the JPEG images for people."""


class Watched:
    """A policy whose newest answer stays to be looked at.

    Attributes:
        chunk: that answer; None before the first.
        at: how many of its actions have been carried out.
        seconds: that it took.
    """

    def __init__(self, policy: Policy):
        self.policy, self.contract = policy, policy.contract
        self.chunk: ActionChunk | None = None
        self.at, self.seconds = 0, 0.0

    def reset(self, ids: Sequence[str]) -> None:
        self.chunk, self.at = None, 0
        self.policy.reset(ids)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        began = time.perf_counter()
        chunks = check_answers(self.contract, observations, self.policy.act(observations))
        self.chunk, self.at, self.seconds = chunks[0], 0, time.perf_counter() - began
        return chunks


class Player:
    """A policy in its own copy of the scene.

    Args:
        name: its name.
        policy: the policy; None is the scripted expert.

    Attributes:
        actor: who takes the next step.
        observation: what the policy saw last; None if there is no scene.
        fault: why there is none: what its simulation failed with.
        view: what a person sees now.
        result: how the episode ended; None while it goes on.
        take: what was played since the episode began.
        next: the policy's next action, as a chunk of one, until it is carried out; None if it is to be asked.
        answer: to the last question, and the point that it is.
    """

    def __init__(self, name: str, policy: Policy | None):
        self.name, self.policy = name, policy
        self.watched = None if policy is None else Watched(policy)
        self.acting = None if self.watched is None else RecedingHorizon(self.watched)
        self.actor: Actor = "expert" if policy is None else "policy"
        self.observation: Observation | None = None
        self.view = View({})
        self.result: Result | None = None
        self.take: Take
        self.fault = ""
        self.next: ActionChunk | None = None
        self.answer: tuple[str, tuple[float, float] | None] = ("", None)

    @property
    def goes_on(self) -> bool:
        """Whether there is a next step."""
        return self.observation is not None and self.result is None

    @property
    def answers(self) -> bool:
        """Whether it can be asked questions: it writes text, and was not trained without any."""
        return hasattr(self.policy, "ask") and getattr(self.policy, "trained_on_questions", None) is not False

    def begin(self, episode: Episode, observation: Observation) -> None:
        """An episode begins with an observation; the policy acts."""
        self.forget()
        self.observation, self.fault, self.result, self.take = observation, "", None, Take(episode)
        self.answer = "", None
        self.actor = "expert" if self.policy is None else "policy"

    def forget(self) -> None:
        """Drops what the policy keeps of the episode, and the actions of its chunk that are left."""
        self.next = None
        if self.acting is not None and self.observation is not None:
            self.acting.reset([self.observation.id])

    def act(self) -> ActionChunk:
        """The policy's next action, as a chunk of one."""
        assert self.acting is not None and self.observation is not None
        if self.next is None:
            (self.next,) = self.acting.act([self.observation])
        return self.next

    def done(self, chunk: ActionChunk, answer: Observation | Result) -> None:
        """An action was carried out."""
        assert self.observation is not None
        self.take.step(self.observation, chunk, self.actor)
        self.next = None
        if self.watched is not None:
            self.watched.at += 1
        if isinstance(answer, Result):
            self.result = answer
        else:
            self.observation = answer

    def embodiment(self, robot: str) -> Embodiment | None:
        """The robot as the policy's contract describes it; None for the expert."""
        return None if self.policy is None else self.policy.contract.embodiment(robot)


class Session:
    """One scene and everything that acts in it. Methods are called one after the other, from one thread.

    Each policy acts in its own copy of the scene, in a worker process of its own: the same seed is the same scene.

    Args:
        policies: name -> policy; None is the scripted expert.
        suite: the suite to begin with.
        workers: as many as there are policies.
        folder: where `save` writes.

    Raises:
        UserError: the scene cannot be set up.
    """

    def __init__(self, policies: Mapping[str, Policy | None], suite: Suite, workers: Workers, folder: str):
        self.players = [Player(name, policy) for name, policy in policies.items()]
        self.workers, self.takes = workers, Takes(folder)
        self.robot, self.spec = embodiment_of(suite.tasks[0])
        self.suites = {suite.name: suite} | {name: fitting for name in known_suites() if (fitting := self._fitting(name))}
        self.tasks = [task for task in task_names() if embodiment_of(task)[0] == self.robot]
        self.suite, self.task, self.variation = suite, suite.tasks[0], suite.variations[0]
        self.seed, self.told = suite.seed, None
        self.question = self.said = ""
        self.begin()

    def close(self) -> None:
        """Completes what was saved."""
        self.takes.close()

    @property
    def over(self) -> bool:
        """Whether no player goes on."""
        return not any(player.goes_on for player in self.players)

    @property
    def instruction(self) -> str:
        """What the robots are told."""
        return next((player.observation.instruction for player in self.players if player.observation is not None), "")

    def choose(self, suite: str, variation: str, task: str, seed: int) -> None:
        """Sets up another scene.

        Args:
            suite, variation, task: their names; a variation that the suite lacks is the suite's first.
            seed: number of the scene.

        Raises:
            UserError: there is none of that name, or the task cannot have the variation.
        """
        if suite not in self.suites:
            raise UserError(f"unknown suite {suite!r}", "suite", f"one of {', '.join(self.suites)}")
        if task not in self.tasks:
            raise UserError(f"unknown task {task!r}", "task", f"one of {', '.join(self.tasks)}")
        variations = {one.name: one for one in self.suites[suite].variations}
        chosen = variations.get(variation) or self.suites[suite].variations[0]
        simulator_of(task).check(task, chosen, f"{task} in {suite}, {chosen.name}")
        self.suite, self.task, self.variation, self.seed, self.told = self.suites[suite], task, chosen, seed, None
        self.begin()

    def begin(self) -> None:
        """Sets the scene up (again) and tells the robots the user's sentence, or the drawn one if there is none."""
        horizon = self.suite.horizon if self.task in self.suite.tasks else 0
        self.said, self.episode = "", Episode(self.seed, horizon=horizon, task=self.task, variation=self.variation)
        self._begin("start", True)
        if self.told is not None:
            self.tell(self.told)

    def tell(self, sentence: str) -> None:
        """Tells all robots a sentence; the scene stays as it is, and success and steps count anew. "" asks for nothing."""
        if any(player.observation is None for player in self.players):
            raise UserError("there is no scene", "simulation", "begin the scene again")
        kind = "correct" if sentence else "empty"
        self.said, self.told, self.episode = "", sentence, dataclasses.replace(self.episode, instruction=sentence, kind=kind)
        self._begin("instruct")

    def step(self) -> None:
        """One step of every player that goes on. A player whose simulation fails has none any more.

        Raises:
            UserError: a policy failed, or the expert does not know what to do; the policy then acts again. Nobody has moved.
        """
        going = [player for player in self.players if player.goes_on]
        advice = self._ask({player: ("advise",) for player in going if player.actor == "expert"})
        chunks: dict[Player, ActionChunk] = {}
        for player in going:
            if player.actor == "policy":
                chunks[player] = player.act()
            elif isinstance(advised := advice.get(player), Advice):
                chunks[player] = ActionChunk(advised.action[None], np.zeros(1, bool))
            elif player in advice:
                player.actor = "expert" if player.policy is None else "policy"
                raise self._lost()
        messages: dict[Player, tuple[Argument, ...]] = {
            player: ("step", chunk.actions[0], bool(chunk.terminate[0]), True) for player, chunk in chunks.items()
        }
        for player, answer in self._ask(messages).items():
            player.done(chunks[player], answer)
        self._look(going)

    def hand_over(self, name: str, actor: str) -> None:
        """Lets the expert, or the policy again, take the next steps.

        Raises:
            UserError: there is no such player, or its expert would not know what to do.
        """
        player = next((player for player in self.players if player.name == name), None)
        if player is None or actor not in ("policy", "expert") or (actor == "policy" and player.policy is None):
            raise UserError(f"{actor!r} cannot act for {name!r}", "actor", "choose the policy or the expert of a policy")
        if actor == "expert" and (not find_task(self.task).expert or (player.goes_on and not player.view.goal)):
            raise self._lost()
        player.forget()
        player.actor = actor

    def ask(self, question: str) -> None:
        """Asks every policy a question on the image that it saw last.

        Raises:
            UserError: none of them answers questions.
        """
        asked = [player for player in self.players if player.answers and player.observation is not None]
        if not asked:
            raise UserError(
                "no policy here has learned to answer questions", "question", "play an export that was trained on some"
            )
        for player in asked:
            assert player.observation is not None
            (answer,) = player.policy.ask([player.observation.images], [question])  # type: ignore[union-attr]
            player.answer = answer.text or "(nothing)", answer.point
        self.question = question

    def save(self) -> None:
        """Writes what was played since the episode began as films and robot data. An episode that goes on ends with it.

        Raises:
            UserError: nothing was played, or it has been saved.
        """
        played = [player for player in self.players if player.take.steps and not player.take.saved]
        if not played:
            raise UserError("nothing new has been played", "save", "play first, then save")
        for player in played:
            player.result = player.result or self._stopped(player)
        self.said = "saved: " + self.takes.save({player.name: (player.take, player.result) for player in played if player.result})

    def state(self) -> dict[str, Any]:
        """What a page shows besides the images of `frames`, as plain values."""
        view = self.players[0].view
        note = ""
        if not view.goal and not self.over:
            there = f" On the table: {', '.join(view.objects)}." if view.objects else ""
            names = "The sentence names no goal of this task in this scene." if self.instruction else "Nothing is asked for."
            note = f"{names} The policy acts all the same, and nothing counts as success.{there}"
        return {
            "suites": {name: [one.name for one in suite.variations] for name, suite in self.suites.items()},
            "tasks": self.tasks,
            "suite": self.suite.name,
            "variation": self.variation.name,
            "task": self.task,
            "scene": self.seed,
            "horizon": self.episode.horizon or find_task(self.task).horizon,
            "instruction": self.instruction,
            "objects": view.objects,
            "goal": view.goal,
            "note": note,
            "question": self.question,
            "said": self.said,
            "over": self.over,
            "players": [self._state_of(player) for player in self.players],
        }

    def frames(self) -> list[bytes]:
        """The images for people as JPEG: those of the first player in the order of its `cameras`, then those of the next."""
        return [image for player in self.players for image in player.take.frames[-1:] for image in image.values()]

    def _state_of(self, player: Player) -> dict[str, Any]:
        watched, spec = player.watched, player.embodiment(self.robot) or self.spec
        chunk = watched.chunk if watched is not None and player.actor == "policy" else None
        return {
            "name": player.name,
            "cameras": list(player.view.images),
            "eye": spec.cameras[0].name,
            "actor": player.actor,
            "policy": player.policy is not None,
            "expert": find_task(self.task).expert,
            "answers": player.answers,
            "answer": player.answer,
            "steps": len(player.take.steps),
            "saved": player.take.saved,
            "by_expert": sum(actor == "expert" for *_, actor in player.take.steps),
            "failure": None if player.result is None else player.result.failure,
            "fault": player.fault,
            "plan": {} if chunk is None else plain(chunk.plan),
            "ms": 0 if watched is None or chunk is None else round(1e3 * watched.seconds),
            "malformed": "" if chunk is None else chunk.status,
            "warnings": [] if chunk is None else plain(chunk.info.get("warnings", [])),
            "hz": spec.control_hz,
            **_plotted(player, chunk, spec.action),
        }

    def _fitting(self, name: str) -> Suite | None:
        """The suite of that name, if it is for this robot."""
        suite = load_suite(name)
        return suite if all(embodiment_of(task)[0] == self.robot for task in suite.tasks) else None

    def _begin(self, name: str, *more: Argument) -> None:
        """Begins the session's episode in every player's worker, by a method of the simulation and its further arguments.

        Raises:
            UserError: a simulation failed.
        """
        messages = {player: (name, *seen_by(player.policy, [self.episode]), *more) for player in self.players}
        for player, observation in self._ask(messages).items():
            player.begin(self.episode, observation)
        self._look(self.players)
        if faults := [f"{player.name}: {player.fault}" for player in self.players if player.fault]:
            raise UserError(f"the simulation failed ({'; '.join(faults)})", "simulation", "`vla doctor` checks rendering")

    def _look(self, players: Sequence[Player]) -> None:
        """Fetches what people see of these players."""
        seen = [player for player in players if player.observation is not None]
        for player, view in self._ask(dict.fromkeys(seen, ("view",))).items():
            player.view = view
            player.take.frames.append({name: encode_jpeg(image, QUALITY) for name, image in view.images.items()})

    def _ask(self, messages: Mapping[Player, tuple[Argument, ...]]) -> dict[Player, Any]:
        """Sends each player's worker a message, and returns the answers. A worker that fails is replaced, without a scene."""
        waiting: dict[Worker, Player] = {}
        for player, message in messages.items():
            worker = self.workers.all[self.players.index(player)]
            waiting[worker] = player
            try:
                worker.send(*message)
            except OSError:
                # The worker has died; `answers` reports it.
                continue
        answers: dict[Player, Any] = {}
        while waiting:
            for worker, answer in self.workers.answers(list(waiting), DEADLINE):
                player = waiting.pop(worker)
                if isinstance(answer, Fault):
                    self.workers.restart(worker)
                    player.observation, player.fault = None, answer.reason
                else:
                    answers[player] = answer
        return answers

    def _stopped(self, player: Player) -> Result:
        """The result of an episode that a person ended."""
        told, steps, view = player.take.steps[0][0].instruction, len(player.take.steps), player.view
        return Result.of(self.episode, told, "", steps, "stopped", False, view.goal, objects=view.objects)

    def _lost(self) -> UserError:
        if not find_task(self.task).expert:
            return UserError(f"{self.task} has no scripted expert", "expert", "let the policy act")
        there = ", ".join(self.players[0].view.objects)
        return UserError(
            "the expert does not know what to do: the sentence names no goal of the task",
            "expert",
            f"name what is on the table: {there}" if there else "tell it what to do",
        )


def _plotted(player: Player, chunk: ActionChunk | None, space: Space) -> dict[str, Any]:
    """What is plotted of each dimension that is not constant: a chunk of several actions, else the actions of the last seconds.

    Returns:
        names, units, low and high of the dimensions; actions [T][A]; the probabilities of the tokens that say them, or None; how
        many of the actions are executed, and how many have been.
    """
    shown = [i for i, value in enumerate(space.constant) if value is None]
    chunks, at = [done for _, done, _ in player.take.steps[-PAST:]], 0
    if chunk is not None and len(chunk.actions) > 1 and player.watched is not None:
        chunks, at = [chunk], player.watched.at
    actions = [action for one in chunks for action in one.actions]
    rows = [row for one in chunks for row in one.info.get("probabilities", {}).get("steps", ())[: len(one.actions)]]
    # The terminate token comes first where there is one.
    tokens = [np.asarray(row)[-space.size :][shown] for row in rows if len(row) >= space.size]
    return {
        "space": [{"name": space.names[i], "unit": space.units[i], "low": space.low[i], "high": space.high[i]} for i in shown],
        "actions": [plain(np.round(np.asarray(action)[shown], 6)) for action in actions],
        "probabilities": [plain(np.round(row, 4)) for row in tokens] if len(tokens) == len(actions) else None,
        "executed": player.acting.execute if at and player.acting is not None else 0,
        "at": at,
    }
