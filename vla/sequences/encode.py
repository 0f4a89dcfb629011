"""Samples and observations -> masked sequences, for training and for acting alike."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vla.contract import Embodiment, Mode, PolicyContract
from vla.datasets.samples import Images, QuestionSample, RobotSample
from vla.errors import UserError
from vla.models.families.base import ModelFamily
from vla.observation import ActionChunk, Observation
from vla.sequences.batch import BUCKET, Batch, Example, collate_examples
from vla.sequences.grammar import ActionGrammar
from vla.sequences.plan import PlanTokens
from vla.sequences.text import TextTokens
from vla.tokenization.base import ActionCodec
from vla.tokenization.codecs import action_codec, state_codec
from vla.tokenization.prompts import Placeholder, action_prompt, question_prompt, tokenize_prompt
from vla.tokenization.sequence import Role, Sequence, concat, fork, piece
from vla.tokenization.vocabulary import Vocabulary
from vla.transforms import CentreCrop

MARKS = {"act": " act:", "think": " think:", "follow": " plan:"}
"""What an action prompt ends with in a mode that is not the contract's first."""


class Encoder:
    """Builds sequences for one contract and one model family, and reads what a model wrote.

    A robot sample is: images, prompt with the state's integers, the plan (words, filled up with the end; the named object's two
    location tokens; its four integers from the gripper), then the chunk as the contract's codec writes it (uniform: per step
    terminate and the action's integers), and the end where chunks are of unequal length. Questions are: images, and branching off
    them for each its prompt, the answer's words or two location tokens, and the end. Words before the images see them and
    are seen by them.

    Args:
        contract: what was agreed.
        family: of the model, with its processor.

    Attributes:
        plan: the plan's tokens.
        grammar: what an action answer may be, and how it is read.
        text: words, integers and locations as tokens.

    Raises:
        UserError: the family's models cannot be trained, the tokenizer lacks tokens, or the contract contradicts itself.
    """

    def __init__(self, contract: PolicyContract, family: ModelFamily):
        self.contract, self.family, self.tokenizer = contract, family, family.tokenizer
        codecs = {name: action_codec(contract, name) for name in contract.embodiments}
        self._states = {name: state_codec(contract, embodiment) for name, embodiment in contract.embodiments.items()}
        # The embodiment with the most symbols has those of the others.
        largest = max(codecs.values(), key=lambda codec: codec.size)
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer, contract.tokens, largest.spelling)
        self.text = TextTokens(self.tokenizer, self.vocabulary)
        self.plan = PlanTokens(contract, self.text)
        self.grammar = ActionGrammar(contract, codecs, self.plan, self.tokenizer.pad_token_id)
        self._places = [{role: piece(ids, role) for role in (Role.IMAGE, Role.ABSENT)} for ids in family.image_ids()]
        self._all = concat(place[Role.IMAGE] for place in self._places)
        self._crop = CentreCrop(contract.crop) if contract.crop < 1 else None

    def number(self, embodiment: str = "") -> int:
        """The number of an embodiment among the contract's; "" is the first."""
        return list(self.contract.embodiments).index(embodiment) if embodiment else 0

    def codec(self, embodiment: str = "") -> ActionCodec:
        """The codec of an embodiment's actions."""
        return self.grammar.codec(embodiment)

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

    def robot(self, sample: RobotSample) -> Example:
        """A training sequence; steps past the end of the episode are not scored."""
        codec = self.codec(sample.embodiment)
        symbols, steps = codec.encode(sample.actions, sample.terminate)
        ids, scored = self.vocabulary.symbols_to_ids(symbols), sample.mask[steps]
        if not codec.fixed:
            ids, scored = np.append(ids, self.vocabulary.eos_id), np.append(scored, True)
        mode = sample.mode or self.contract.modes[0]
        plan = {"words": sample.target, "point": sample.point, "reach": sample.offset}
        observation = Observation("", sample.images, sample.state, sample.instruction, sample.embodiment, plan)
        images = self._images(sample.images, self.contract.embodiment(sample.embodiment), sample.past)
        trunk, words = self._action_words(observation, mode, images)
        answer = [*words, *(self.plan.written(plan) if mode == "think" else ()), piece(ids, Role.MODEL, scored)]
        block = len(ids) if self.contract.block != "none" else 0
        return Example(fork(concat(trunk), answer), images, self.number(sample.embodiment), int(scored.sum()), block)

    def question(self, sample: QuestionSample) -> Example:
        """A training sequence for all questions on the pictures; the answers and their end tokens are scored."""
        # A picture from elsewhere may be of one camera alone.
        embodiment = self.contract.embodiment()
        if not any(c.name in sample.images for c in embodiment.cameras):
            names = ", ".join(c.name for c in embodiment.cameras)
            fix = "convert it with one of these as --camera"
            raise UserError(f"no picture of camera {names}; got {', '.join(sample.images)}", "question", fix)
        images = self._seen([sample.images], embodiment)
        trunks, branches = [], []
        for question in sample.questions:
            trunk, words = self._question_words(question.text, images)
            answer = [token for part in question.answer for token in self.text.ids(part)]
            trunks.append(concat(trunk))
            branches.append([*words, piece([*answer, self.vocabulary.eos_id], Role.MODEL)])
        if any(not np.array_equal(trunk.ids, trunks[0].ids) for trunk in trunks):
            raise UserError(
                "several questions before the same pictures", "contract.question", "put {images} first, or ask one at a time"
            )
        return Example(fork(trunks[0], *branches), images)

    def build(self, sample: RobotSample | QuestionSample) -> Example:
        return self.robot(sample) if isinstance(sample, RobotSample) else self.question(sample)

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
        segments = action_prompt(self.contract, observation.instruction, self.family.processor)
        ids = None
        if Placeholder.STATE in segments:
            ids = self.vocabulary.bins_to_ids(self._states[observation.embodiment or next(iter(self._states))].encode(state))
        trunk, words = tokenize_prompt(segments, self.text.prompt, ids, self._pictures(images))
        if mode == self.contract.modes[0]:
            return trunk, words
        # Any other mode says so.
        mark = self.text.prompt(MARKS[mode])
        return trunk, [*words, mark, *(self.plan.given(observation.plan) if mode == "follow" else ())]

    def _question_words(self, question: str, images: list[np.ndarray | None]) -> tuple[list[Sequence], list[Sequence]]:
        segments = question_prompt(self.contract, question, self.family.processor)
        return tokenize_prompt(segments, self.text.prompt, None, self._pictures(images))

    def chunk(self, ids: np.ndarray, embodiment: str = "", mode: str = "") -> ActionChunk:
        """Written ids [T] back to actions: see `ActionGrammar.read`."""
        return self.grammar.read(ids, embodiment, mode)

    def answer(self, ids: np.ndarray) -> tuple[str, tuple[float, float] | None]:
        """Written ids [T] of an answer to a question: its words, and the point if it is one."""
        ids = self.text.until_end(ids)
        point = self.vocabulary.ids_to_point(ids) if len(ids) == 2 and set(ids.tolist()) <= set(self.vocabulary.loc_ids) else None
        return self.text.text(ids), point

    def batch(self, examples: list[Example], bucket: int = BUCKET) -> Batch:
        """Examples side by side: see `collate_examples`."""
        return collate_examples(examples, self.family, self.contract.block == "bidirectional", bucket)
