import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.promptable.actions import ActionScaler
from vla.promptable.instruction_vocabulary import UNKNOWN, InstructionVocabulary
from vla.space import Space

VOCABULARY = InstructionVocabulary.of(
    ["Lift the red cube.", "pick up the small red cube"], ["red cube", "small red cube", "cube", ""]
)


def test_words_are_those_of_the_data():
    assert VOCABULARY.words == ("cube", "lift", "pick", "red", "small", "the", "up")
    assert VOCABULARY.bag("lift THE red ball!").tolist() == [0, 1, 0, 1, 0, 1, 0] and not VOCABULARY.bag("").any()


@pytest.mark.parametrize(
    ("instruction", "named"),
    [
        ("lift the red cube", "red cube"),
        ("Take the small red cube to the cube", "small red cube"),
        ("the cube beside the red cube", "cube"),
        ("lift the redcube", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_the_first_and_longest_known_object_fills_prompts(instruction, named):
    assert VOCABULARY.fields(instruction) == {"instruction": instruction, "object": named}


SPACE = Space(("a", "b", "c"), ("m",) * 3, (-2.0, 0.0, -1.0), (2.0, 4.0, 1.0), (None, 3.0, None))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2))
def test_the_inverse_of_scaling(scaled):
    actions = ActionScaler(SPACE).inverse(np.array([scaled]))
    assert actions.shape == (1, 3) and actions[0, 1] == 3.0
    assert np.allclose(ActionScaler(SPACE)(actions), scaled, atol=1e-12)


def test_what_is_outside_the_limits_is_clipped_both_ways():
    assert ActionScaler(SPACE)(np.array([9.0, 0.0, -9.0])).tolist() == [1, -1]
    assert ActionScaler(SPACE).inverse(np.array([9.0, -9.0])).tolist() == [2, 3, -1]
