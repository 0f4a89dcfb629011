"""Samples and observations to masked sequences, and written ids back to actions: one code path for training and for acting."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import torch

from vla.contract import Embodiment, PolicyContract
from vla.datasets.sources import QuestionItem, RobotItem
from vla.errors import UserError
from vla.policies.base import ActionChunk, Observation
from vla.tokenization.codecs import action_codec, state_codec
from vla.tokenization.prompts import action_prompt, question_prompt, tokenize_prompt
from vla.tokenization.sequence import Role, Sequence, collate, concat, fork, piece
from vla.tokenization.vocabulary import Vocabulary
from vla.transforms import CentreCrop, Point

REACH = (128, 128, 128, 128)
"""An unknown reach: nowhere, and no turn."""
BUCKET = 8
"""Prompts are padded to multiples of this, so that few shapes occur."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A masked sequence with its pictures: one uint8 [H, W, 3] per camera, in the contract's order."""

    sequence: Sequence
    images: list[np.ndarray]


class Examples:
    """Builds sequences for one contract and one model's processor.

    A robot sample is: pictures, prompt with the state's integers, the plan (the named object's two location tokens, its four
    integers from the gripper), then per step
    terminate and the action's integers. Questions are: pictures, and off them for each its prompt, the answer's words or two
    location tokens, and the end.

    Args:
        contract: what was agreed.
        processor: has `tokenizer`, `image_ids()` and `pixels(images)`.
    """

    def __init__(self, contract: PolicyContract, processor: Any):
        self.contract, self.processor, self.tokenizer = contract, processor, processor.tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer)
        self._places = piece(processor.image_ids(), Role.IMAGE)
        self._crop = CentreCrop(contract.crop) if contract.crop < 1 else None
        self._words = functools.lru_cache(4096)(self._encode)
        self._codecs = {name: (action_codec(contract, e), state_codec(contract, e)) for name, e in contract.embodiments.items()}

    def _encode(self, text: str) -> list[int]:
        # A user who types "<image>" or "<eos>" writes letters.
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _codec(self, embodiment: str):
        self.contract.embodiment(embodiment)
        return self._codecs[embodiment or next(iter(self._codecs))]

    def _images(self, images: dict[str, np.ndarray], embodiment: Embodiment) -> list[np.ndarray]:
        missing = [c.name for c in embodiment.cameras if c.name not in images]
        if missing:
            raise UserError(f"no picture of camera {', '.join(missing)}; got {', '.join(images)}", "observation")
        chosen = [images[c.name] for c in embodiment.cameras]
        return [self._crop(i) for i in chosen] if self._crop else chosen

    def robot(self, item: RobotItem) -> Example:
        """A training sequence; steps past the end of the episode are not scored."""
        observation = Observation("", item.images, item.state, item.instruction, item.embodiment)
        actions, _ = self._codec(item.embodiment)
        bins = np.concatenate([item.terminate[:, None].astype(np.int64), actions.encode(item.actions)], 1)
        if not self.contract.terminate:
            bins = bins[:, 1:]
        written = piece(self.vocabulary.bins_to_ids(bins), Role.MODEL, np.repeat(item.mask, bins.shape[1]))
        # What is not known stands there unscored: what follows keeps its position.
        plan = {
            "where": piece(self.vocabulary.point_to_ids(*(item.point or (0.5, 0.5))), Role.MODEL, item.point is not None),
            "reach": piece(self.vocabulary.bins_to_ids(np.array(item.reach or REACH)), Role.MODEL, item.reach is not None),
        }
        answer = concat([self._action_words(observation), *(plan[part] for part in self.contract.plan), written])
        images = self._images(item.images, self.contract.embodiment(item.embodiment))
        return Example(fork(self._places, answer), images)

    def question(self, item: QuestionItem) -> Example:
        """A training sequence for all questions on the pictures; the answers and their end tokens are scored."""
        branches = []
        for question in item.questions:
            answer = [token for part in question.answer for token in self._written(part)]
            branches.append(concat([self._question_words(question.text), piece([*answer, self.vocabulary.eos_id], Role.MODEL)]))
        return Example(fork(self._places, *branches), self._images(item.images, self.contract.embodiment()))

    def _written(self, part: str | int | Point) -> list[int]:
        if isinstance(part, str):
            return self._words(" " + part)
        if isinstance(part, int):
            return self.vocabulary.bins_to_ids(np.array([part])).tolist()
        return self.vocabulary.point_to_ids(*part)

    def build(self, item: RobotItem | QuestionItem) -> Example:
        return self.robot(item) if isinstance(item, RobotItem) else self.question(item)

    def act(self, observation: Observation) -> Example:
        """The prompt for an action."""
        images = self._images(observation.images, self.contract.embodiment(observation.embodiment))
        return Example(fork(self._places, self._action_words(observation)), images)

    def ask(self, images: dict[str, np.ndarray], question: str) -> Example:
        """The prompt for a question."""
        return Example(fork(self._places, self._question_words(question)), self._images(images, self.contract.embodiment()))

    def _action_words(self, observation: Observation) -> Sequence:
        state = self.contract.embodiment(observation.embodiment).state.check(observation.state, "the state")
        ids = self.vocabulary.bins_to_ids(self._codec(observation.embodiment)[1].encode(state))
        return tokenize_prompt(action_prompt(self.contract, observation.instruction), self._words, ids)

    def _question_words(self, question: str) -> Sequence:
        return tokenize_prompt(question_prompt(self.contract, question), self._words, None)

    def allowed(self, embodiment: str = "") -> list[list[int]]:
        """The ids that each token of an action answer may have, in order."""
        step = [
            self.vocabulary.bins_to_ids(bins).tolist() for bins in self._codec(embodiment)[0].allowed(self.contract.terminate)
        ]
        plan = {"where": [list(self.vocabulary.loc_ids)] * 2, "reach": [list(self.vocabulary.integer_ids)] * len(REACH)}
        return [ids for part in self.contract.plan for ids in plan[part]] + step * self.contract.chunk

    def chunk(self, ids: np.ndarray, embodiment: str = "") -> ActionChunk:
        """Written ids [T] back to actions in physical units; info holds the plan: `point`, `reach`.

        Raises:
            UserError: an id is not an action token.
        """
        info = {}
        for part in self.contract.plan:
            if part == "where":
                info["point"], ids = list(self.vocabulary.ids_to_point(ids[:2])), ids[2:]
            else:
                info["reach"], ids = self.vocabulary.ids_to_bins(ids[: len(REACH)]).tolist(), ids[len(REACH) :]
        bins = self.vocabulary.ids_to_bins(ids).reshape(self.contract.chunk, -1)
        terminate = bins[:, 0] == 1 if self.contract.terminate else np.zeros(len(bins), bool)
        return ActionChunk(self._codec(embodiment)[0].decode(bins[:, int(self.contract.terminate) :]), terminate, info)

    def answer(self, ids: np.ndarray) -> tuple[str, tuple[float, float] | None]:
        """Written ids [T] of an answer: its words, and the point if it is one."""
        ends = np.flatnonzero(ids == self.vocabulary.eos_id)
        ids = ids[: ends[0]] if len(ends) else ids
        point = self.vocabulary.ids_to_point(ids) if len(ids) == 2 and set(ids.tolist()) <= set(self.vocabulary.loc_ids) else None
        return self.tokenizer.decode(ids.tolist()).strip(), point

    def batch(self, examples: list[Example], bucket: int = BUCKET) -> dict[str, torch.Tensor]:
        """Pads on the right to a multiple of `bucket`.

        Returns:
            input_ids [B, L], attention_mask and prefix_mask bool [B, L], branch_ids [B, L], labels [B, L] (-100 where nothing
            is scored) and pixel_values float [B, C, 3, S, S] in [-1, 1].
        """
        longest = max(len(e.sequence) for e in examples)
        arrays = collate([e.sequence for e in examples], self.tokenizer.pad_token_id, -(-longest // bucket) * bucket)
        ids = torch.from_numpy(arrays["ids"])
        return {
            "input_ids": ids,
            "attention_mask": torch.from_numpy(arrays["attention"]),
            "prefix_mask": torch.from_numpy(arrays["prefix"]),
            "branch_ids": torch.from_numpy(arrays["branch"]).long(),
            "labels": ids.masked_fill(~torch.from_numpy(arrays["loss"]), -100),
            "pixel_values": torch.stack([self.processor.pixels(e.images) for e in examples]),
        }
