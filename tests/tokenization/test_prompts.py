import numpy as np
import pytest

from vla.contract import Camera, Embodiment, PolicyContract, Space
from vla.errors import UserError
from vla.tokenization.prompts import Placeholder, action_prompt, question_prompt, tokenize_prompt
from vla.tokenization.sequence import Role, concat, piece
from vla.tokenization.vocabulary import Vocabulary

SPACE = Space(("x", "y"), ("m", "m"), (-1, -1), (1, 1))
ROBOT = {"arm": Embodiment((Camera("front", 64, 64),), SPACE, SPACE)}


def test_segments_of_the_default_templates():
    contract = PolicyContract(ROBOT)
    assert action_prompt(contract, "Pick up  the red cube.") == [
        "Q: what action should the robot take to pick up the red cube? state: ",
        Placeholder.STATE,
        " A:",
    ]
    assert question_prompt(contract, "where is it?") == ["Q: where is it? A:"]


def test_an_instruction_is_not_a_template():
    segments = action_prompt(PolicyContract(ROBOT, prompt="{instruction}"), "say {state} {x}")
    assert segments == ["say {state} {x}"]


@pytest.mark.parametrize("template", ["no place", "{instruction} {wrong}", "{instruction", "{instruction} {}"])
def test_bad_templates_are_refused(template):
    with pytest.raises(UserError, match="prompt"):
        action_prompt(PolicyContract(ROBOT, prompt=template), "go")


def test_the_state_enters_as_ids(tokenizer):
    vocabulary = Vocabulary.from_tokenizer(tokenizer)

    def encode(text):
        return piece(tokenizer(text, add_special_tokens=False).input_ids, Role.PROMPT)

    state = vocabulary.bins_to_ids(np.array([7, 128]))
    sequence = concat(tokenize_prompt(action_prompt(PolicyContract(ROBOT), "go"), encode, state))
    assert sequence.ids[sequence.roles == Role.OBSERVATION].tolist() == state.tolist()
    assert not sequence.loss.any() and sequence.prefix == len(sequence)
    assert tokenizer.decode(sequence.ids[sequence.roles == Role.PROMPT]).endswith("state:  A:")
    with pytest.raises(UserError, match="no state is given"):
        tokenize_prompt(action_prompt(PolicyContract(ROBOT), "go"), encode, None)
