import pytest

from vla.errors import UserError
from vla.promptable.prompts import PromptTemplate


def test_fields_are_filled_and_what_fills_them_is_no_template():
    prompt = PromptTemplate("Is there a {object} in this image, {{yes}} or {object}?")
    assert prompt.fields == ("object",)
    assert prompt.fill({"object": "{red} ball", "more": ""}) == "Is there a {red} ball in this image, {yes} or {red} ball?"
    assert PromptTemplate("").fill({}) == ""


@pytest.mark.parametrize("known", [("object", "instruction"), ()])
def test_an_unknown_field_is_named_with_those_that_are_known(known):
    with pytest.raises(UserError, match="unknown field {target}") as caught:
        PromptTemplate("Would a {target} be found here?").check(known)
    assert all(f"{{{name}}}" in caught.value.fix for name in known)


@pytest.mark.parametrize("text", ["Is {", "Is } there", "Is {} there", "Is {object.__class__} there", "Is {0[a]}"])
def test_what_is_no_template_is_refused(text):
    with pytest.raises(UserError, match="template|plain name"):
        PromptTemplate(text)
