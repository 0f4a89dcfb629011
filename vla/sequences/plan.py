"""The plan that a policy writes before its actions: words, the named object's point, its offset from the gripper."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.models.decoding.allowed import Free
from vla.sequences.text import TextTokens
from vla.tokenization.sequence import Role, Sequence, piece

REACH = (128, 128, 128, 128)
"""An unknown offset: no distance, and no turn."""


class PlanTokens:
    """A plan as tokens: the contract's parts, in the contract's order.

    Args:
        contract: lists the parts of a plan, and the largest number of tokens of its words.
        text: words, integers and locations as tokens.
    """

    def __init__(self, contract: PolicyContract, text: TextTokens):
        self.contract, self.text, self.vocabulary = contract, text, text.vocabulary
        self._lengths = {"words": contract.words, "where": 2, "reach": len(REACH)}

    def parts(self, mode: str = "") -> tuple[str, ...]:
        """The parts that are written in a mode; "" is the contract's first mode."""
        return self.contract.plan if (mode or self.contract.modes[0]) == "think" else ()

    def length(self, mode: str = "") -> int:
        """The number of tokens of a written plan."""
        return sum(self._lengths[part] for part in self.parts(mode))

    def allowed(self, mode: str = "") -> list[list[int] | Free]:
        """The ids that each token may have, or free text."""
        words = {
            "words": Free(self.vocabulary.eos_id),
            "where": list(self.vocabulary.loc_ids),
            "reach": list(self.vocabulary.integer_ids),
        }
        return [words[part] for part in self.parts(mode) for _ in range(self._lengths[part])]

    def ordinal(self, mode: str = "") -> list[bool]:
        """Which tokens are ordinal, that is, locations and integers."""
        return [part != "words" for part in self.parts(mode) for _ in range(self._lengths[part])]

    def written(self, plan: dict[str, Any]) -> list[Sequence]:
        """The plan as the model writes it. Unknown parts are filled in and not scored, so that the following tokens keep their
        positions."""
        words, point, reach = self._words(plan["words"]), plan["point"], plan["reach"]
        filled = np.array(words + [self.vocabulary.eos_id] * (self.contract.words - len(words)))
        parts = {
            "words": piece(filled, Role.MODEL, (np.arange(len(filled)) <= len(words)) & bool(words)),
            "where": piece(self.vocabulary.point_to_ids(*(point or (0.5, 0.5))), Role.MODEL, point is not None),
            "reach": piece(self.vocabulary.bins_to_ids(np.array(reach or REACH)), Role.MODEL, reach is not None),
        }
        return [parts[part] for part in self.contract.plan]

    def given(self, plan: dict[str, Any]) -> list[Sequence]:
        """The plan as part of a prompt, without unknown parts."""
        parts = []
        for part in self.contract.plan:
            if part == "words" and plan.get("words"):
                parts.append(piece(self.text.ids(plan["words"]), Role.OBSERVATION))
            if part == "where" and plan.get("point") is not None:
                parts.append(piece(self.vocabulary.point_to_ids(*plan["point"]), Role.OBSERVATION))
            if part == "reach" and plan.get("reach") is not None:
                parts.append(piece(self.vocabulary.bins_to_ids(np.array(plan["reach"])), Role.OBSERVATION))
        return parts

    def read(self, ids: np.ndarray, mode: str = "") -> tuple[dict[str, Any], np.ndarray]:
        """Splits written ids [T] into the plan (`words`, `point`, `reach`) and the ids after it."""
        plan: dict[str, Any] = {}
        for part in self.parts(mode):
            written, ids = ids[: self._lengths[part]], ids[self._lengths[part] :]
            if part == "words":
                plan["words"] = self.text.text(written)
            elif part == "where":
                plan["point"] = list(self.vocabulary.ids_to_point(written))
            else:
                plan["reach"] = self.vocabulary.ids_to_bins(written).tolist()
        return plan, ids

    def _words(self, text: str) -> list[int]:
        """The ids of a plan's words, without the end token; UserError if there are more than the contract allows."""
        words = self.text.ids(text) if text and "words" in self.contract.plan else []
        if len(words) >= self.contract.words:
            raise UserError(
                f"a plan of {len(words)} tokens and the end token: {text[:60]!r}", "contract.words", f"{len(words) + 1} or more"
            )
        return words
