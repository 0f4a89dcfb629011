"""Samples and observations to masked sequences, and written ids back to actions: one code path for training and for acting."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from vla.contract import Embodiment, Mode, PolicyContract
from vla.datasets.items import Images, QuestionItem, RobotItem
from vla.errors import UserError
from vla.models.decoding.allowed import Block, Follow, Free, Ordinal
from vla.models.tiny.attention import BLOCK
from vla.observation import ActionChunk, Observation
from vla.tokenization.base import ActionCodec, Malformed
from vla.tokenization.codecs import action_codec, has_ordinal, no_ordinal, state_codec
from vla.tokenization.prompts import Mark, Placeholder, action_prompt, question_prompt, tokenize_prompt
from vla.tokenization.sequence import Role, Sequence, collate, concat, fork, piece
from vla.tokenization.vocabulary import Vocabulary
from vla.transforms import CentreCrop, Point

REACH = (128, 128, 128, 128)
"""An unknown reach: nowhere, and no turn."""
MARKS = {"act": " act:", "think": " think:", "follow": " plan:"}
"""What an action prompt ends with in a mode that is not the contract's first."""
BUCKET = 8
"""Prompts are padded to multiples of this, so that few shapes occur."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A masked sequence with its pictures: one uint8 [H, W, 3] per camera in the contract's order, oldest first; None: unseen.

    Attributes:
        actions: how many of the scored tokens, the last of all, are a chunk's.
        block: how many tokens, the last of all, are written at once: blanks stand for them in what the model reads.
    """

    sequence: Sequence
    images: list[np.ndarray | None]
    actions: int = 0
    block: int = 0


class Examples:
    """Builds sequences for one contract and one model's processor.

    A robot sample is: pictures, prompt with the state's integers, the plan (words, filled up with the end; the named object's two
    location tokens; its four integers from the gripper), then the chunk as the contract's codec writes it (uniform: per step
    terminate and the action's integers), and the end where chunks are of unequal length. Questions are: pictures, and off them
    for each its prompt, the answer's words or two location tokens, and the end. Words that stand before the pictures see them and
    are seen by them.

    Args:
        contract: what was agreed.
        processor: has `tokenizer`, `image_ids()` (of each picture) and `pixels(samples)`.

    Attributes:
        ordinals: the integer and the location tokens, where the contract decodes them by another statistic than the mode.
    """

    def __init__(self, contract: PolicyContract, processor: Any):
        if not hasattr(processor, "image_ids"):
            raise UserError(
                f"a model with a {type(processor).__name__} cannot be trained yet",
                "model.vlm",
                "use `tiny` or one of its class",
            )
        self.contract, self.processor, self.tokenizer = contract, processor, processor.tokenizer
        self._codecs = {
            name: (action_codec(contract, name), state_codec(contract, e)) for name, e in contract.embodiments.items()
        }
        if contract.block != "none" and not all(actions.fixed for actions, _ in self._codecs.values()):
            raise UserError(
                f"codec {contract.codec} writes answers of unequal length, which cannot be written at once",
                "contract.block",
                "none, or another codec",
            )
        # The embodiment with the most symbols has those of the others.
        largest = max((actions for actions, _ in self._codecs.values()), key=lambda codec: codec.size)
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer, contract.tokens, largest.spelling)
        if contract.decode != "mode" and not has_ordinal(contract, [actions for actions, _ in self._codecs.values()]):
            raise no_ordinal(contract)
        # Answers to questions are open: there the likeliest word says whether it is a location or an integer.
        ordinals = (self.vocabulary.integer_ids, self.vocabulary.loc_ids) if contract.decode != "mode" else ()
        self.ordinals = tuple(Ordinal(torch.tensor(ids), contract.decode) for ids in ordinals if ids)
        self._places = [{role: piece(ids, role) for role in (Role.IMAGE, Role.ABSENT)} for ids in processor.image_ids()]
        self._all = concat(place[Role.IMAGE] for place in self._places)
        self._tokens = {"words": contract.words, "where": 2, "reach": len(REACH)}
        self._crop = CentreCrop(contract.crop) if contract.crop < 1 else None
        self._words = functools.lru_cache(4096, typed=True)(self._prompted)
        self._writing: dict[tuple[str, str], dict[str, Any]] = {}

    def __getstate__(self) -> dict:
        # For loader processes: a cache belongs to its process.
        return {name: value for name, value in self.__dict__.items() if name not in ("_words", "_writing")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._writing = {}
        self._words = functools.lru_cache(4096, typed=True)(self._prompted)

    def _prompted(self, text: str) -> Sequence:
        # A user who types "<image>" or "<eos>" writes letters; a chat template does not.
        letters = not isinstance(text, Mark)
        return piece(self.tokenizer(str(text), add_special_tokens=False, split_special_tokens=letters)["input_ids"], Role.PROMPT)

    def _codec(self, embodiment: str):
        self.contract.embodiment(embodiment)
        return self._codecs[embodiment or next(iter(self._codecs))]

    def _images(self, images: Images, embodiment: Embodiment, past: list[Images | None]) -> list[np.ndarray | None]:
        missing = [c.name for c in embodiment.cameras if c.name not in images]
        if missing:
            raise UserError(f"no picture of camera {', '.join(missing)}; got {', '.join(images)}", "observation")
        return self._seen([*past, images], embodiment)

    def _seen(self, frames: list[Images | None], embodiment: Embodiment) -> list[np.ndarray | None]:
        """The pictures of all places, oldest first; None where one is not there."""
        missing: list[Images | None] = [None] * (self.contract.history - len(frames))
        names = [c.name for c in embodiment.cameras]
        chosen = [frame.get(name) if frame else None for frame in (*missing, *frames) for name in names]
        return [image if image is None or not self._crop else self._crop(image) for image in chosen]

    def _pictures(self, images: list[np.ndarray | None]) -> list[Sequence]:
        """The places of the pictures, those that are not there masked; one by one where a chat template puts each."""
        if len(images) != len(self._places):
            raise UserError(
                f"the model takes {len(self._places)} pictures, the contract gives {len(images)}",
                "model.vlm",
                "a new model sees as many cameras as the data have",
            )
        if not self.contract.chat and all(image is not None for image in images):
            return [self._all]
        roles = [Role.ABSENT if image is None else Role.IMAGE for image in images]
        return [place[role] for place, role in zip(self._places, roles, strict=True)]

    def robot(self, item: RobotItem) -> Example:
        """A training sequence; steps past the end of the episode are not scored."""
        symbols, steps = self.codec(item.embodiment).encode(item.actions, item.terminate)
        ids, scored = self.vocabulary.symbols_to_ids(symbols), item.mask[steps]
        if not self.codec(item.embodiment).fixed:
            ids, scored = np.append(ids, self.vocabulary.eos_id), np.append(scored, True)
        mode = item.mode or self.contract.modes[0]
        plan = {"words": item.target, "point": item.point, "reach": item.reach}
        observation = Observation("", item.images, item.state, item.instruction, item.embodiment, plan)
        images = self._images(item.images, self.contract.embodiment(item.embodiment), item.past)
        trunk, words = self._action_words(observation, mode, images)
        answer = [*words, *(self._plan(plan) if mode == "think" else ()), piece(ids, Role.MODEL, scored)]
        block = len(ids) if self.contract.block != "none" else 0
        return Example(fork(concat(trunk), answer), images, int(scored.sum()), block)

    def _plan(self, plan: dict[str, Any]) -> list[Sequence]:
        """The plan as the model writes it. What is not known stands there unscored: what follows keeps its position."""
        words, point, reach = self._spoken(plan["words"]), plan["point"], plan["reach"]
        filled = np.array(words + [self.vocabulary.eos_id] * (self.contract.words - len(words)))
        parts = {
            "words": piece(filled, Role.MODEL, (np.arange(len(filled)) <= len(words)) & bool(words)),
            "where": piece(self.vocabulary.point_to_ids(*(point or (0.5, 0.5))), Role.MODEL, point is not None),
            "reach": piece(self.vocabulary.bins_to_ids(np.array(reach or REACH)), Role.MODEL, reach is not None),
        }
        return [parts[part] for part in self.contract.plan]

    def _given(self, plan: dict[str, Any]) -> list[Sequence]:
        """The plan as it stands in a prompt; what is not known is left out."""
        parts = []
        for part in self.contract.plan:
            if part == "words" and plan.get("words"):
                parts.append(piece(self._written(plan["words"]), Role.OBSERVATION))
            if part == "where" and plan.get("point") is not None:
                parts.append(piece(self.vocabulary.point_to_ids(*plan["point"]), Role.OBSERVATION))
            if part == "reach" and plan.get("reach") is not None:
                parts.append(piece(self.vocabulary.bins_to_ids(np.array(plan["reach"])), Role.OBSERVATION))
        return parts

    def question(self, item: QuestionItem) -> Example:
        """A training sequence for all questions on the pictures; the answers and their end tokens are scored."""
        # A picture from elsewhere may be of one camera alone.
        embodiment = self.contract.embodiment()
        if not any(c.name in item.images for c in embodiment.cameras):
            names = ", ".join(c.name for c in embodiment.cameras)
            fix = "convert it with one of these as --camera"
            raise UserError(f"no picture of camera {names}; got {', '.join(item.images)}", "question", fix)
        images = self._seen([item.images], embodiment)
        trunks, branches = [], []
        for question in item.questions:
            trunk, words = self._question_words(question.text, images)
            answer = [token for part in question.answer for token in self._written(part)]
            trunks.append(concat(trunk))
            branches.append([*words, piece([*answer, self.vocabulary.eos_id], Role.MODEL)])
        if any(not np.array_equal(trunk.ids, trunks[0].ids) for trunk in trunks):
            raise UserError(
                "several questions before the same pictures", "contract.question", "put {images} first, or ask one at a time"
            )
        return Example(fork(trunks[0], *branches), images)

    def _spoken(self, text: str) -> list[int]:
        """A plan's words, without their end; UserError: there are more than the contract has."""
        words = self._written(text) if text and "words" in self.contract.plan else []
        if len(words) >= self.contract.words:
            raise UserError(
                f"a plan of {len(words)} tokens and its end: {text[:60]!r}", "contract.words", f"{len(words) + 1} or more"
            )
        return words

    def _written(self, part: str | int | Point) -> list[int]:
        if isinstance(part, str):
            return self._words(" " + part).ids.tolist()
        if isinstance(part, int):
            return self.vocabulary.bins_to_ids(np.array([part])).tolist()
        return self.vocabulary.point_to_ids(*part)

    def build(self, item: RobotItem | QuestionItem) -> Example:
        return self.robot(item) if isinstance(item, RobotItem) else self.question(item)

    def act(self, observation: Observation, past: Iterable[Images | None] = ()) -> Example:
        """The prompt for an action.

        Args:
            observation: what is seen now.
            past: the pictures before, oldest first; those that are missing at the beginning are unseen.
        """
        images = self._images(observation.images, self.contract.embodiment(observation.embodiment), list(past))
        trunk, words = self._action_words(observation, self.mode(observation), images)
        return Example(fork(concat(trunk), words), images)

    def mode(self, observation: Observation) -> Mode:
        """How an observation is acted on: following the plan that it brings, else the contract's way.

        Raises:
            UserError: it brings a plan, but the policy was never trained to follow one.
        """
        if not observation.plan:
            return self.contract.modes[0]
        if "follow" not in self.contract.modes:
            raise UserError("the policy was not trained to follow a plan", "observation", "leave `plan` out")
        return "follow"

    def ask(self, images: Images, question: str) -> Example:
        """The prompt for a question."""
        seen = self._seen([images], self.contract.embodiment())
        trunk, words = self._question_words(question, seen)
        return Example(fork(concat(trunk), words), seen)

    def _action_words(
        self, observation: Observation, mode: Mode | str, images: list[np.ndarray | None]
    ) -> tuple[list[Sequence], list[Sequence]]:
        """What stands up to the last picture, and the rest of the prompt."""
        state = self.contract.embodiment(observation.embodiment).state.check(observation.state, "the state")
        segments = action_prompt(self.contract, observation.instruction, self.processor)
        ids = None
        if Placeholder.STATE in segments:
            ids = self.vocabulary.bins_to_ids(self._codec(observation.embodiment)[1].encode(state))
        trunk, words = tokenize_prompt(segments, self._words, ids, self._pictures(images))
        if mode == self.contract.modes[0]:
            return trunk, words
        # Any other mode says so.
        mark = self._words(MARKS[mode])
        return trunk, [*words, mark, *(self._given(observation.plan) if mode == "follow" else ())]

    def _question_words(self, question: str, images: list[np.ndarray | None]) -> tuple[list[Sequence], list[Sequence]]:
        segments = question_prompt(self.contract, question, self.processor)
        return tokenize_prompt(segments, self._words, None, self._pictures(images))

    def codec(self, embodiment: str = "") -> ActionCodec:
        """The codec of an embodiment's actions."""
        return self._codec(embodiment)[0]

    def ends(self, embodiment: str = "") -> int | None:
        """The token that ends an action answer; None where all are of the same length."""
        return None if self.codec(embodiment).fixed else self.vocabulary.eos_id

    def allowed(self, embodiment: str = "", mode: str = "") -> list[list[int] | Free]:
        """The ids that each token of an action answer may have, in order, or free text; mode "" is the contract's first.

        Where answers are of unequal length these are the longest one's places, each of which may also be the end; which of the
        ids may really come depends on those before, and `next` says so.
        """
        return [*self._plan_places(mode), *self._chunk_places(embodiment)]

    def next(self, embodiment: str = "", mode: str = "") -> Callable[[np.ndarray], list[int]]:
        """The function from the ids written so far [n] of an action answer to those that may come next; none: it is complete.
        It does not know free text.

        Raises (the function):
            Malformed: no answer begins so.
        """
        codec = self.codec(embodiment)
        plan = [[] if isinstance(place, Free) else place for place in self._plan_places(mode)]

        def follow(written: np.ndarray) -> list[int]:
            if len(written) < len(plan):
                return plan[len(written)]
            ids = np.asarray(written)[len(plan) :]
            if not codec.fixed and len(ids) and ids[-1] == self.vocabulary.eos_id:
                return []
            symbols, end = codec.next(self.vocabulary.ids_to_symbols(ids))
            return self.vocabulary.symbols_to_ids(symbols).tolist() + [self.vocabulary.eos_id] * (end and not codec.fixed)

        return follow

    def writing(self, embodiment: str = "", mode: str = "") -> dict[str, Any]:
        """How an action answer is written, as `decode.write` takes it: what is allowed, its end, its block."""
        if (embodiment, mode) not in self._writing:
            self._writing[embodiment, mode] = self._way(embodiment, mode)
        return self._writing[embodiment, mode]

    def _way(self, embodiment: str, mode: str) -> dict[str, Any]:
        places, plan, decode = self.allowed(embodiment, mode), self.planned(mode), self.contract.decode
        # Places that may have the same have one table: what a reader makes for it serves them all.
        tables: dict[tuple[int, ...], torch.Tensor] = {}

        def place(words: list[int] | Free, ordinal: bool) -> torch.Tensor | Ordinal | Free:
            if isinstance(words, Free):
                return words
            table = tables.setdefault(tuple(words), torch.tensor(words))
            return Ordinal(table, decode) if ordinal and decode != "mode" else table

        allowed = [place(*one) for one in zip(places, self.ordinal(embodiment, mode), strict=True)]
        if (end := self.ends(embodiment)) is not None:
            return {"allowed": Follow(allowed, self.next(embodiment, mode)), "eos_id": end}
        if self.contract.block == "none":
            return {"allowed": allowed}
        chunk = [words for words in allowed[plan:] if not isinstance(words, Free)]
        block = Block.of(chunk, self.tokenizer.pad_token_id, self.contract.block == "bidirectional")
        return {"allowed": allowed[:plan], "block": block}

    def ordinal(self, embodiment: str = "", mode: str = "") -> list[bool]:
        """Which tokens of an action answer have ids that stand for rising values, in their order; as many as `allowed` has."""
        plan = [part != "words" for part in self._written_plan(mode) for _ in range(self._tokens[part])]
        return [*plan, *self.codec(embodiment).ordinal(), *([] if self.ends(embodiment) is None else [False])]

    def planned(self, mode: str = "") -> int:
        """How many tokens of an action answer are its plan, the first ones; mode "" is the contract's first."""
        return len(self._plan_places(mode))

    def _plan_places(self, mode: str) -> list[list[int] | Free]:
        words = {
            "words": Free(self.vocabulary.eos_id),
            "where": list(self.vocabulary.loc_ids),
            "reach": list(self.vocabulary.integer_ids),
        }
        return [words[part] for part in self._written_plan(mode) for _ in range(self._tokens[part])]

    def _chunk_places(self, embodiment: str) -> list[list[int]]:
        end = [] if self.ends(embodiment) is None else [self.vocabulary.eos_id]
        places = [self.vocabulary.symbols_to_ids(symbols).tolist() + end for symbols in self.codec(embodiment).places()]
        return [*places, *([end] if end else [])]

    def _written_plan(self, mode: str) -> tuple[str, ...]:
        return self.contract.plan if (mode or self.contract.modes[0]) == "think" else ()

    def chunk(self, ids: np.ndarray, embodiment: str = "", mode: str = "") -> ActionChunk:
        """Written ids [T] back to actions in physical units; info holds the plan: `words`, `point`, `reach`.

        What is no whole chunk comes back as `status`, without actions.

        Raises:
            UserError: an id is not an action token.
        """
        info = {}
        for part in self._written_plan(mode):
            if part == "words":
                info["words"], ids = self._text(ids[: self.contract.words]), ids[self.contract.words :]
            elif part == "where":
                info["point"], ids = list(self.vocabulary.ids_to_point(ids[:2])), ids[2:]
            else:
                info["reach"], ids = self.vocabulary.ids_to_bins(ids[: len(REACH)]).tolist(), ids[len(REACH) :]
        codec = self.codec(embodiment)
        if not codec.fixed:
            ids = self._until_end(ids)
        symbols = self.vocabulary.ids_to_symbols(ids)
        try:
            return ActionChunk(*codec.decode(symbols), info)
        except Malformed as error:
            return ActionChunk(np.empty((0, codec.space.size)), np.empty(0, bool), info, f"malformed: {error.what}")

    def answer(self, ids: np.ndarray) -> tuple[str, tuple[float, float] | None]:
        """Written ids [T] of an answer: its words, and the point if it is one."""
        ids = self._until_end(ids)
        point = self.vocabulary.ids_to_point(ids) if len(ids) == 2 and set(ids.tolist()) <= set(self.vocabulary.loc_ids) else None
        return self._text(ids), point

    def _text(self, ids: np.ndarray) -> str:
        return self.tokenizer.decode(self._until_end(ids).tolist()).strip()

    def _until_end(self, ids: np.ndarray) -> np.ndarray:
        return ids[: np.append(np.flatnonzero(ids == self.vocabulary.eos_id), len(ids))[0]]

    def batch(self, examples: list[Example], bucket: int = BUCKET) -> dict[str, torch.Tensor]:
        """Pads on the right to a multiple of `bucket`.

        Returns:
            input_ids [B, L], with blanks for what is written at once; attention_mask bool [B, L], branch_ids [B, L]; prefix_mask
            int8 [B, L], the group of tokens that see one another (`vla.models.tiny.attention`); labels [B, L] (-100 where
            nothing is scored) and pixel_values float [B, C, 3, S, S] in [-1, 1].
        """
        longest = max(len(e.sequence) for e in examples)
        arrays = collate([e.sequence for e in examples], self.tokenizer.pad_token_id, -(-longest // bucket) * bucket)
        ids, group = torch.from_numpy(arrays["ids"]), torch.from_numpy(arrays["prefix"]).to(torch.int8)
        labels = ids.masked_fill(~torch.from_numpy(arrays["loss"]), -100)
        for row, example in enumerate(examples):
            if example.block:
                block = slice(len(example.sequence) - example.block, len(example.sequence))
                ids[row, block] = self.tokenizer.pad_token_id
                # The last blank says nothing, and decoding leaves it out.
                group[row, block][:-1] = BLOCK if self.contract.block == "bidirectional" else 0
        return {
            "input_ids": ids,
            "attention_mask": torch.from_numpy(arrays["attention"]),
            "prefix_mask": group,
            "branch_ids": torch.from_numpy(arrays["branch"]).long(),
            "labels": labels,
            "pixel_values": self.processor.pixels([e.images for e in examples]),
        }
