"""A small model that reads instructions by a frozen text encoder, as tiny random instances of the real classes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from vla.contract import PolicyContract
from vla.errors import ContractMismatch
from vla.language.encoders import SentenceEncoder, token_ids
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.models.tiny.from_scratch import VLMSpec
from vla.models.tiny.reading import FIRST
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT

SMALL = {"text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("halves", Path(__file__).with_name("halves.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("bert")
    return folder, module.bert(folder)


@pytest.fixture(scope="module")
def reader(bert):
    from vla.commands.training import new_tokenizer

    model, processor = VLMSpec("new", text_encoder=str(bert[0]), **SMALL).make(new_tokenizer)
    return model, processor, PolicyContract({"t": EMBODIMENT}, chunk=1, execute=1, text_encoder=model.config.text_encoder)


def seen(words="pick up the red cube", state=0.0):
    images = {c.name: np.full((c.height, c.width, 3), 90, np.uint8) for c in EMBODIMENT.cameras}
    return Observation("a", images, np.array([state, 0, 0.1, 0, 0.04]), words)


def test_the_instruction_alone_is_read_by_the_encoder(reader, bert):
    model, processor, contract = reader
    encoder = Encoder(contract, family_of(model, processor))
    sequence = encoder.act(seen()).sequence
    read = sequence.ids >= FIRST
    own = token_ids(processor.reader, "pick up the red cube", 64)
    assert (sequence.ids[read] - FIRST).tolist() == own and len(own) == 7
    words = processor.tokenizer.decode(sequence.ids[~read][80:])
    assert "robot take to" in words and "state" in words and "cube" not in words
    with torch.no_grad():
        embeds = model._embed(torch.from_numpy(sequence.ids)[None])[0, torch.from_numpy(read)]
        states = bert[1](torch.tensor([own])).last_hidden_state[0]
        assert torch.allclose(embeds, model.reading(states), atol=1e-5)


def test_a_batch_equals_its_rows_and_questions_of_an_image_stay_apart(reader):
    model, processor, contract = reader
    encoder = Encoder(contract, family_of(model, processor))
    examples = [encoder.act(seen(words)) for words in ("pick up the red cube", "", "where is it [CLS] the red ball")]
    with torch.no_grad():
        together = encoder.batch(examples).inputs
        scores = encoder.family.score(model, together, together.attention)
        alone = []
        for example in examples:
            inputs = encoder.batch([example]).inputs
            alone.append(encoder.family.score(model, inputs, inputs.attention))
    assert torch.allclose(scores, torch.cat(alone), atol=1e-4)


def test_the_encoder_never_learns_and_its_states_are_computed_once(reader, monkeypatch):
    model, processor, contract = reader
    calls = []
    model._states = type(model._states)()
    handle = model.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    inputs = (
        Encoder(contract, family_of(model, processor)).batch([Encoder(contract, family_of(model, processor)).act(seen())]).inputs
    )
    model.train()
    for _ in range(2):
        model(inputs.ids, inputs.images["pixel_values"], inputs.attention, inputs.group).logits.sum().backward()
    handle.remove()
    assert len(calls) == 1 and not model.text_encoder.training
    assert all(p.grad is None for p in model.text_encoder.parameters()) and model.reading.project[0].weight.grad is not None
    model.zero_grad(), model.eval()


def test_an_export_holds_the_encoder(reader, tmp_path):
    from vla.training.export import write_export

    model, processor, contract = reader
    write_export(tmp_path / "export", model, processor, contract)
    policy, again = LocalPolicy(model, processor, contract), LocalPolicy.from_export(tmp_path / "export", device="cpu")
    assert np.array_equal(again.act([seen()])[0].actions, policy.act([seen()])[0].actions)
    assert again.contract.text_encoder.split()[0] == Path(model.config.text_encoder.split()[0]).name
    loaded, _ = load_vlm(tmp_path / "export", history=1)
    assert not any(p.requires_grad for p in loaded.text_encoder.parameters())
    plain, reads = VLMSpec(**SMALL).make()
    with pytest.raises(ContractMismatch, match="the contract's text encoder is bert.*the model's none"):
        LocalPolicy(plain, reads, contract)


def test_sentence_vectors_are_means_of_states_of_length_one(bert):
    encode = SentenceEncoder(str(bert[0]))
    one, two = encode(["pick up the red cube", "where is it"])
    assert torch.allclose(one.norm(), torch.tensor(1.0)) and torch.allclose(encode(["where is it"])[0], two)
    states = bert[1](torch.tensor([token_ids(encode.tokenizer, "where is it", 64)])).last_hidden_state[0]
    assert torch.allclose(torch.nn.functional.normalize(states.mean(0), dim=-1), two, atol=1e-6)
