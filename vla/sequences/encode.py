"""Samples and observations to masked sequences, for training and for acting alike."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vla.contract import Mode, PolicyContract
from vla.datasets.samples import Images, Question, QuestionSample, RobotSample
from vla.errors import ContractMismatch, UserError
from vla.models.families.base import ModelFamily, PromptFrame
from vla.observation import ActionChunk, Observation
from vla.sequences.batch import BUCKET, Batch, Example, collate_examples
from vla.sequences.grammar import ActionGrammar
from vla.sequences.images import Frames, ImageTokens
from vla.sequences.plan import PlanTokens
from vla.sequences.text import TextTokens
from vla.tokenization.base import ActionCodec
from vla.tokenization.codecs import action_codec, state_codec
from vla.tokenization.prompts import Placeholder, action_prompt, question_prompt, tokenize_prompt
from vla.tokenization.sequence import Role, Sequence, concat, fork, piece
from vla.tokenization.vocabulary import Vocabulary

Branch = tuple[Sequence, list[Sequence]]
"""What stands up to the last image, and what follows it, in parts."""
MARKS = {"act": " act:", "think": " think:", "follow": " plan:"}
"""The end of an action prompt in a mode that is not the contract's first."""


class Encoder:
    """Builds sequences for one contract and one model family, and reads what a model wrote.

    A robot sample becomes: images; the prompt with the state's integers; the plan (words, filled up with the end token; the named
    object's two location tokens; the four integers of its offset from the gripper); the chunk as the contract's codec writes it
    (uniform: for each step the terminate token and the action's integers); and the end token where chunks differ in length. An
    image with questions becomes: images, then one branch per question with its prompt, the answer's words or two location tokens,
    and the end token. Questions on a robot's images are such branches, before that of the actions. Words that stand before the
    images see them and are seen by them.

    Args:
        contract: what the policy and its users agree on.
        family: of the model, with its processor.

    Attributes:
        plan: the plan's tokens.
        grammar: which tokens an action answer may have, and how they are read.
        text: words, integers and locations as tokens.

    Raises:
        UserError: the family's models cannot be trained, the tokenizer lacks tokens, or the contract contradicts itself.
    """

    def __init__(self, contract: PolicyContract, family: ModelFamily):
        self.contract, self.family, self.tokenizer = contract, family, family.tokenizer
        self._images, self._frame = ImageTokens(contract, family), family.frame
        self._prompting = family.processor, family.image_text, family.words is not None
        if family.text_encoder != contract.text_encoder:
            what = (
                f"the contract's text encoder is {contract.text_encoder or 'none'}, the model's {family.text_encoder or 'none'}"
            )
            raise ContractMismatch(what, fix="use the contract and the model of one training")
        codecs = {name: action_codec(contract, name) for name in contract.embodiments}
        self._states = {name: state_codec(contract, embodiment) for name, embodiment in contract.embodiments.items()}
        # The embodiment with the most symbols has those of the others.
        largest = max(codecs.values(), key=lambda codec: codec.size)
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer, contract.tokens, largest.spelling)
        self.text = TextTokens(self.tokenizer, self.vocabulary, family.words)
        self.plan = PlanTokens(contract, self.text)
        self.grammar = ActionGrammar(contract, codecs, self.plan, self.tokenizer.pad_token_id)

    def number(self, embodiment: str = "") -> int:
        """The number of an embodiment among the contract's; "" is the first."""
        return list(self.contract.embodiments).index(embodiment) if embodiment else 0

    def codec(self, embodiment: str = "") -> ActionCodec:
        """The codec of an embodiment's actions."""
        return self.grammar.codec(embodiment)

    def robot(self, sample: RobotSample) -> Example:
        """A training sequence. Steps past the end of the episode are not scored."""
        codec = self.codec(sample.embodiment)
        symbols, steps = codec.encode(sample.actions, sample.terminate)
        ids, scored = self.vocabulary.symbols_to_ids(symbols), sample.mask[steps]
        if not codec.fixed:
            ids, scored = np.append(ids, self.vocabulary.eos_id), np.append(scored, True)
        mode = sample.mode or self.contract.modes[0]
        plan = {"words": sample.target, "point": sample.point, "reach": sample.offset}
        observation = Observation("", sample.images, sample.state, sample.instruction, sample.embodiment, plan)
        frames = self._images.all_cameras(sample.images, self.contract.embodiment(sample.embodiment), sample.past)
        trunk, words = self._action_prompt(observation, mode, frames)
        answer = [*words, *(self.plan.written(plan) if mode == "think" else ()), piece(ids, Role.MODEL, scored)]
        block = len(ids) if self.contract.block != "none" else 0
        # The actions come last: they are counted from the end.
        sequence = _forked([*self._asked(sample.questions, frames), (concat(trunk), answer)])
        return Example(sequence, frames, self.number(sample.embodiment), int(scored.sum()), block)

    def question(self, sample: QuestionSample) -> Example:
        """A training sequence for all questions on an image. The answers and their end tokens are scored."""
        # An image that no robot took may be of one camera alone.
        embodiment = self.contract.embodiment()
        if not any(camera.name in sample.images for camera in embodiment.cameras):
            names = ", ".join(camera.name for camera in embodiment.cameras)
            fix = "convert it with one of these as --camera"
            raise UserError(f"no image of camera {names}; got {', '.join(sample.images)}", "question", fix)
        frames = self._images.frames([sample.images], embodiment)
        return Example(_forked(self._asked(sample.questions, frames)), frames)

    def _asked(self, questions: list[Question], frames: Frames) -> list[Branch]:
        branches = []
        for question in questions:
            trunk, words = self._question_prompt(question.text, frames)
            answer = [token for part in question.answer for token in self.text.ids(part)]
            branches.append((concat(trunk), [*words, piece([*answer, self.vocabulary.eos_id], Role.MODEL)]))
        return branches

    def build(self, sample: RobotSample | QuestionSample) -> Example:
        """A training sequence for either kind of sample."""
        return self.robot(sample) if isinstance(sample, RobotSample) else self.question(sample)

    def act(self, observation: Observation, past: Iterable[Images | None] = ()) -> Example:
        """The prompt for an action.

        Args:
            observation: what the robot sees now.
            past: earlier images, oldest first. Times before the first of them are masked.
        """
        embodiment = self.contract.embodiment(observation.embodiment)
        frames = self._images.all_cameras(observation.images, embodiment, list(past))
        trunk, words = self._action_prompt(observation, self.mode(observation), frames)
        return Example(fork(concat(trunk), words), frames)

    def mode(self, observation: Observation) -> Mode:
        """The mode in which the policy acts: "follow" if the observation brings a plan, else the contract's first.

        Raises:
            UserError: the observation brings a plan, but the policy was never trained to follow one.
        """
        if not observation.plan:
            return self.contract.modes[0]
        if "follow" not in self.contract.modes:
            raise UserError("the policy was not trained to follow a plan", "observation", "leave `plan` out")
        return "follow"

    def ask(self, images: Images, question: str) -> Example:
        """The prompt for a question."""
        frames = self._images.frames([images], self.contract.embodiment())
        trunk, words = self._question_prompt(question, frames)
        return Example(fork(concat(trunk), words), frames)

    def _action_prompt(self, observation: Observation, mode: Mode | str, frames: Frames) -> tuple[list[Sequence], list[Sequence]]:
        """The prompt up to the last image, and the rest of it."""
        state = self.contract.embodiment(observation.embodiment).state.check(observation.state, "the state")
        segments = action_prompt(self.contract, observation.instruction, *self._prompting)
        ids = None
        if Placeholder.STATE in segments:
            ids = self.vocabulary.bins_to_ids(self._states[observation.embodiment or next(iter(self._states))].encode(state))
        trunk, words = self._framed(*tokenize_prompt(segments, self.text.prompt, ids, self._images.tokens(frames)))
        if mode == self.contract.modes[0]:
            return trunk, words
        # Every other mode is marked.
        mark = self.text.prompt(MARKS[mode])
        return trunk, [*words, mark, *(self.plan.given(observation.plan) if mode == "follow" else ())]

    def _question_prompt(self, question: str, frames: Frames) -> tuple[list[Sequence], list[Sequence]]:
        """The prompt up to the last image, and the rest of it."""
        segments = question_prompt(self.contract, question, *self._prompting)
        return self._framed(*tokenize_prompt(segments, self.text.prompt, None, self._images.tokens(frames)))

    def _framed(self, trunk: list[Sequence], words: list[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
        """The prompt with what the model expects around it; a chat template has that itself."""
        if self._frame == PromptFrame() or self.contract.chat:
            return trunk, words
        before, after_images, after = (
            [piece(ids, Role.PROMPT)] if ids else [] for ids in (self._frame.before, self._frame.after_images, self._frame.after)
        )
        return [*before, *trunk], [*after_images, *words, *after]

    def chunk(self, ids: np.ndarray, embodiment: str = "", mode: str = "") -> ActionChunk:
        """Decodes written ids [T] to actions; see `ActionGrammar.read`."""
        return self.grammar.read(ids, embodiment, mode)

    def answer(self, ids: np.ndarray) -> tuple[str, tuple[float, float] | None]:
        """Decodes the written ids [T] of an answer to a question: its words, and the point if it is one."""
        ids = self.text.until_end(ids)
        point = self.vocabulary.ids_to_point(ids) if len(ids) == 2 and set(ids.tolist()) <= set(self.vocabulary.loc_ids) else None
        return self.text.text(ids), point

    def batch(self, examples: list[Example], bucket: int = BUCKET) -> Batch:
        """Puts examples side by side; see `collate_examples`."""
        return collate_examples(examples, self.family, self.contract.block == "bidirectional", bucket)


def _forked(branches: list[Branch]) -> Sequence:
    """One sequence of branches that have the same images; UserError if their text before the images differs."""
    trunk = branches[0][0]
    if any(not np.array_equal(other.ids, trunk.ids) for other, _ in branches):
        raise UserError(
            "several questions before the same images", "contract.question", "put {images} first, or ask one at a time"
        )
    return fork(trunk, *(parts for _, parts in branches))
