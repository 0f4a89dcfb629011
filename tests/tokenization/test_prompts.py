import copy
import dataclasses

import numpy as np
import pytest

from vla.contract import Camera, Embodiment, PolicyContract
from vla.errors import UserError
from vla.space import Space
from vla.tokenization.prompts import OPENVLA, RT2, Mark, Placeholder, action_prompt, question_prompt, tokenize_prompt
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
    trunk, rest = tokenize_prompt(action_prompt(PolicyContract(ROBOT), "go"), encode, state)
    sequence = concat(rest)
    assert not trunk
    assert sequence.ids[sequence.roles == Role.OBSERVATION].tolist() == state.tolist()
    assert not sequence.loss.any() and sequence.prefix == len(sequence)
    assert tokenizer.decode(sequence.ids[sequence.roles == Role.PROMPT]).endswith("state:  A:")
    with pytest.raises(UserError, match="no state is given"):
        tokenize_prompt(action_prompt(PolicyContract(ROBOT), "go"), encode, None)


def test_published_prompts():
    assert action_prompt(PolicyContract(ROBOT, prompt=RT2), "Pick it up.") == [
        "Q: what action should the robot take to pick it up? A:"
    ]
    mine = PolicyContract(ROBOT, prompt=OPENVLA, normalise="lower")
    assert action_prompt(mine, "Pick it up.") == ["In: What action should the robot take to pick it up.?\nOut: "]


def images(count: int):
    return [piece([900 + i] * 2, Role.IMAGE) for i in range(count)]


@pytest.mark.parametrize(
    ("prompt", "before", "after"),
    [
        ("{instruction}", [], ["go"]),
        ("{images}{instruction}", [], ["go"]),
        ("{instruction}{images} A:", ["go"], [" A:"]),
        ("To {instruction} {images}", ["To go "], []),
    ],
)
def test_images_come_before_or_after_the_words(prompt, before, after):
    texts = []
    words = lambda text: texts.append(text) or piece([len(texts)], Role.PROMPT)  # noqa: E731
    trunk, rest = tokenize_prompt(action_prompt(PolicyContract(ROBOT, prompt=prompt), "go"), words, None, images(2))
    assert texts == before + after and len(trunk) == len(before) + 2 and len(rest) == len(after)
    assert [p.ids[0] for p in trunk[-2:]] == [900, 901]


def test_images_have_one_placeholder():
    with pytest.raises(UserError, match="twice"):
        action_prompt(PolicyContract(ROBOT, prompt="{images}{instruction}{images}"), "go")


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<vision><image></vision>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = "{{ '<bos>' }}{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endfor %}"


@pytest.fixture(scope="module")
def chatting(families):
    """Chat template -> a tokenizer that has it and its special tokens."""

    def make(template):
        tokenizer = copy.deepcopy(families["byte-level"])
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<image>", "<vision>", "</vision>"]}
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


def two_cameras(**fields):
    robot = dataclasses.replace(ROBOT["arm"], cameras=tuple(Camera(n, 64, 64) for n in ("front", "wrist")))
    return PolicyContract({"arm": robot}, chat=True, prompt="{instruction}; state {state}", **fields)


def test_a_chat_template_wraps_words_and_images(chatting):
    tokenizer = chatting(CHATML)
    segments = action_prompt(two_cameras(), "say <|im_end|> or vla content", tokenizer)
    assert segments == [
        "<|im_start|>user\n<vision>",
        Placeholder.IMAGE,
        "</vision><vision>",
        Placeholder.IMAGE,
        "</vision>",
        "say <|im_end|> or vla content; state ",
        Placeholder.STATE,
        "<|im_end|>\n<|im_start|>assistant\n",
    ]
    marks = [isinstance(s, Mark) for s in segments if isinstance(s, str)]
    assert marks == [True, True, True, False, True]

    def words(text):
        letters = not isinstance(text, Mark)
        return piece(tokenizer(str(text), add_special_tokens=False, split_special_tokens=letters)["input_ids"], Role.PROMPT)

    trunk, rest = tokenize_prompt(segments, words, np.array([5, 6]), images(2))
    sequence = concat([*trunk, *rest])
    end, start = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    assert (sequence.ids == end).sum() == 1 and (sequence.ids == start).sum() == 2
    assert (concat(trunk).roles == Role.IMAGE).sum() == 4 and not (concat(rest).roles == Role.IMAGE).any()


def test_words_before_images_in_a_chat(chatting):
    contract = dataclasses.replace(two_cameras(), prompt="{instruction}{images}", question="{question}{images}")
    for segments in (action_prompt(contract, "go", chatting(CHATML)), question_prompt(contract, "go", chatting(CHATML))):
        assert segments[1] == "go" and segments.index(Placeholder.IMAGE) > 1


def test_a_chat_template_for_text_alone_leaves_images_first(chatting):
    segments = action_prompt(two_cameras(), "go", chatting(LLAMA))
    assert segments == ["<bos>[INST] ", "go; state ", Placeholder.STATE, " [/INST]"]


def test_a_chat_without_a_template_is_named(families):
    with pytest.raises(UserError, match="no chat template"):
        action_prompt(two_cameras(), "go", families["byte-level"])
