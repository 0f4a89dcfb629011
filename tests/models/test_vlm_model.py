import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vla.errors import UserError
from vla.models.load import new_tiny
from vla.models.tiny.config import TinyVLMConfig
from vla.models.tiny.model import TinyVLM

IMAGE, PROMPT, ANSWER = 80, 6, 5
LENGTH = IMAGE + PROMPT + ANSWER


@pytest.fixture
def batch(small):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(300, 500, (2, LENGTH), generator=generator)
    ids[:, :IMAGE] = small[1].image_token_id
    prefix = torch.arange(LENGTH).expand(2, -1) < IMAGE + PROMPT
    return {
        "input_ids": ids,
        "pixel_values": torch.rand(2, 2, 3, 64, 64, generator=generator) * 2 - 1,
        "attention_mask": torch.ones(2, LENGTH, dtype=torch.bool),
        "prefix_mask": prefix,
    }


def hidden(model, batch):
    with torch.inference_mode():
        return model.hidden(**batch).last_hidden_state


def changed(batch, position):
    ids = batch["input_ids"].clone()
    ids[:, position] += 1
    return {**batch, "input_ids": ids}


def test_a_later_prompt_token_changes_the_prompt_and_not_the_images(small, batch):
    before, after = hidden(small[0], batch), hidden(small[0], changed(batch, IMAGE + PROMPT - 1))
    assert torch.equal(before[:, :IMAGE], after[:, :IMAGE])
    assert (before[:, IMAGE:] != after[:, IMAGE:]).any(-1).all()


def test_every_image_token_attends_to_all_images(small, batch):
    pixels = batch["pixel_values"].clone()
    pixels[:, 1] *= 0.5  # the second camera
    before, after = hidden(small[0], batch), hidden(small[0], {**batch, "pixel_values": pixels})
    assert (before[:, :IMAGE] != after[:, :IMAGE]).any(-1).all()


def test_branches_of_one_image_equal_prompts_alone(small, batch):
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randint(300, 500, (n,), generator=generator) for n in (7, 4, 9)]
    prompts = (3, 2, 5)
    image, pixels = batch["input_ids"][0, :IMAGE], batch["pixel_values"][:1]

    def run(chosen):
        ids = torch.cat([image, *(texts[i] for i in chosen)])[None]
        branch = torch.cat([torch.zeros(IMAGE).long(), *(torch.full((len(texts[i]),), n) for n, i in enumerate(chosen, 1))])[None]
        prefix = torch.cat([torch.ones(IMAGE), *((torch.arange(len(texts[i])) < prompts[i]) for i in chosen)])[None].bool()
        with torch.inference_mode():
            states = small[0].hidden(ids, pixels, None, prefix, branch_ids=branch).last_hidden_state[0, IMAGE:]
            plain = small[0].hidden(ids, pixels, None, prefix).last_hidden_state[0, IMAGE:] if len(chosen) == 1 else None
        return states, plain

    together, _ = run((0, 1, 2))
    start = 0
    for i, text in enumerate(texts):
        alone, plain = run((i,))
        assert torch.allclose(together[start : start + len(text)], alone, atol=1e-5)
        assert torch.allclose(plain, alone, atol=1e-5)  # without branch ids everything after the images is one branch
        start += len(text)


def test_a_later_answer_token_changes_nothing_before_it(small, batch):
    position = IMAGE + PROMPT + 2
    before, after = hidden(small[0], batch), hidden(small[0], changed(batch, position))
    assert torch.equal(before[:, :position], after[:, :position])
    assert (before[:, position:] != after[:, position:]).any(-1).all()


def test_a_causal_prefix_attends_only_to_earlier_tokens(tokenizer, small, batch):
    model = TinyVLM(TinyVLMConfig.from_dict({**small[0].config.to_dict(), "prefix": "causal"})).eval()
    position = IMAGE + 2
    before, after = hidden(model, batch), hidden(model, changed(batch, position))
    assert torch.equal(before[:, :position], after[:, :position]) and not torch.equal(before[:, position:], after[:, position:])


def test_padding_and_the_rest_of_a_batch_have_no_influence(small, batch):
    alone = hidden(small[0], {k: v[:1] for k, v in batch.items()})
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 7), value=5),
        "pixel_values": batch["pixel_values"],
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 7)),
        "prefix_mask": torch.nn.functional.pad(batch["prefix_mask"], (0, 7)),
    }
    assert torch.allclose(alone[0], hidden(small[0], padded)[0, :LENGTH], atol=1e-5)
    small[0].train()  # no batch statistics: training mode gives the same
    try:
        assert torch.allclose(alone[0], hidden(small[0], batch)[0], atol=1e-5)
    finally:
        small[0].eval()


def test_each_camera_matters(small, batch):
    for camera in range(2):
        pixels = batch["pixel_values"].clone()
        pixels[:, camera] = 0
        assert not torch.allclose(hidden(small[0], batch), hidden(small[0], {**batch, "pixel_values": pixels}), atol=1e-3)


def test_logits_only_at_requested_positions(small, batch):
    labels = batch["input_ids"].masked_fill(batch["prefix_mask"], -100)
    labels[0, -1] = -100
    with torch.inference_mode():
        out, full = small[0](**batch, labels=labels), small[0](**batch).logits
    wanted = labels[:, 1:] != -100
    assert out.logits.shape[0] == int(wanted.sum()) == 2 * ANSWER - 1
    assert torch.allclose(out.logits, full[:, :-1][wanted], atol=1e-5)
    reference = torch.nn.functional.cross_entropy(full[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert torch.allclose(out.loss, reference, atol=1e-5)


def test_the_prefix_ends_before_the_first_label(small, batch):
    labels = batch["input_ids"].masked_fill(batch["prefix_mask"], -100)
    without = {k: v for k, v in batch.items() if k != "prefix_mask"}
    with torch.inference_mode():
        assert torch.equal(small[0](**batch, labels=labels).loss, small[0](**without, labels=labels).loss)


def test_every_weight_has_a_gradient(small, batch):
    labels = batch["input_ids"].masked_fill(batch["prefix_mask"], -100)
    with torch.autocast("cpu", torch.bfloat16):
        small[0](**batch, labels=labels).loss.backward()
    missing = [
        name for name, p in small[0].named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    small[0].zero_grad()
    assert not missing


def test_wrong_input_is_refused(small, batch):
    with pytest.raises(UserError, match="<image> tokens"):
        small[0](**{**batch, "input_ids": torch.full_like(batch["input_ids"], 301)})
    with pytest.raises(UserError, match="<image> tokens .* with 64 image tokens each"):
        small[0](**{**batch, "pixel_values": batch["pixel_values"][:, :1]})
    with pytest.raises(UserError, match="3 images of 64 x 64"):
        small[0](**{**batch, "pixel_values": batch["pixel_values"][:, [0, 1, 1]]})
    with pytest.raises(UserError, match="do not divide"):
        TinyVLMConfig(image_size=60)
    with pytest.raises(UserError, match="prefix"):
        TinyVLMConfig(prefix="both")


def test_save_and_load_through_auto_classes(small, batch, tmp_path):
    small[0].save_pretrained(tmp_path)
    small[1].save_pretrained(tmp_path)
    model, processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(model) is TinyVLM and processor.image_tokens == [64, 16]
    assert not any(path.suffix in (".bin", ".pt", ".py") for path in tmp_path.iterdir())
    for (name, a), (_, b) in zip(small[0].state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(hidden(small[0], batch), hidden(model.eval(), batch))


def test_another_language_model_and_vision_network(tokenizer, batch):
    model, processor = new_tiny(
        tokenizer,
        text_config={"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
                     "num_key_value_heads": 2, "intermediate_size": 64},
        vision_name="convnext_atto", vision_args={"depths": [1, 1, 1, 1], "dims": [16, 32, 32, 32]},
    )  # fmt: skip
    assert hidden(model, batch).shape == (2, LENGTH, 32) and sum(processor.image_tokens) == IMAGE


def test_the_default_is_small_enough_to_ship(tokenizer):
    model, _ = new_tiny(tokenizer)
    assert 1.5e6 < sum(p.numel() for p in model.parameters()) < 2.4e6
