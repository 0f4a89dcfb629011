"""Every family of public models, by a toy of the real classes: our loss, answers and branches are the model's own."""

import dataclasses
import json
import shutil

import numpy as np
import published
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LogitsProcessor, LogitsProcessorList

from vla.contract import Camera, Embodiment, PolicyContract
from vla.datasets.samples import Question, QuestionSample, RobotSample
from vla.errors import UserError
from vla.models.adapters import Lora, add_lora, merged
from vla.models.embeddings import append_tokens
from vla.models.families.find import family_of
from vla.models.families.hub import left_padded
from vla.models.inputs import BLOCK
from vla.models.load import load_vlm
from vla.models.logprobs import scored, token_logprobs
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.sequences.encode import Encoder
from vla.space import Space
from vla.tokenization.action_tokens import appended_tokens

pytest.importorskip("num2words")
SPACE = Space(names=("x", "y"), units=("m", "m"), low=(-1.0, -1.0), high=(1.0, 1.0))
ROBOT = Embodiment(cameras=(Camera("a", 96, 128), Camera("b", 64, 64)), state=SPACE, action=SPACE)


@pytest.fixture(scope="module", params=published.FAMILIES)
def toy(request):
    """Model, processor and encoder, with appended action tokens and the chat template, where there is one."""
    model, processor = published.make(request.param)
    append_tokens(model, processor.tokenizer, appended_tokens(256), [str(1000 + i) for i in range(256)])
    contract = PolicyContract(
        {"r": ROBOT}, tokens="append", plan=(), chat=bool(getattr(processor, "chat_template", None)), chunk=2, execute=2
    )
    return model, processor, Encoder(contract, family_of(model, processor))


def images(seed=0):
    rng = np.random.default_rng(seed)
    return {camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for camera in ROBOT.cameras}


def robot(seed=0, words="lift the cube"):
    actions = np.random.default_rng(seed).uniform(-1, 1, (2, 2)).astype(np.float32)
    known = {"mask": np.ones(2, bool), "terminate": np.zeros(2, bool), "target": "", "point": None, "offset": None}
    return RobotSample(
        images(seed), np.array([0.1, -0.5]), actions, instruction=words, episode=0, step=0, embodiment="r", **known
    )


def asked(*pairs):
    return QuestionSample({"a": images()["a"]}, [Question(text, [answer], "x") for text, answer in pairs])


def logits(toy, *samples):
    """Logits of the scored tokens, and these tokens."""
    model, _, encoder = toy
    batch = encoder.batch([encoder.build(sample) for sample in samples])
    positions = scored(batch.labels)
    with torch.inference_mode():
        return encoder.family.score(model, batch.inputs, positions), batch.labels[:, 1:][positions[:, :-1]], batch


def test_the_loss_is_the_model_s_own(toy, record_property):
    model, _, encoder = toy
    found, ids, batch = logits(toy, robot(0), robot(1, "go"))
    ours = -token_logprobs(found, ids).mean()
    inputs = batch.inputs
    with torch.inference_mode():
        theirs = model(
            input_ids=inputs.ids,
            attention_mask=inputs.attention.long(),
            labels=batch.labels,
            **inputs.images,
            **encoder.family.token_types(inputs),
        ).loss
    record_property("difference", abs(float(ours - theirs)))
    assert abs(float(ours - theirs)) < 1e-5


def test_answers_are_those_of_generate_alone_and_in_company(toy):
    model, processor, encoder = toy
    observations = [Observation(str(i), images(i), np.array([0.1, -0.5]), words) for i, words in enumerate(("go", "lift it now"))]
    together = LocalPolicy(model, processor, encoder.contract, batch=2, encoder=encoder).act(observations)
    alone = LocalPolicy(model, processor, encoder.contract, batch=1, encoder=encoder)
    for observation, answer in zip(observations, together, strict=True):
        assert np.array_equal(alone.act([observation])[0].actions, answer.actions)
        prompt = left_padded(encoder.batch([encoder.act(observation)]).inputs, encoder.tokenizer.pad_token_id or 0)
        allowed = encoder.grammar.allowed()
        # Without padding, the model's own settings need no help.
        start = int((prompt.attention[0] == 0).sum())
        fed = {"input_ids": prompt.ids[:, start:], "attention_mask": prompt.attention[:, start:], **prompt.images}
        types = encoder.family.token_types(dataclasses.replace(prompt, ids=prompt.ids[:, start:]))
        only = LogitsProcessorList([Only(allowed, fed["input_ids"].shape[1])])
        settings = {"max_new_tokens": len(allowed), "min_new_tokens": len(allowed), "do_sample": False, "eos_token_id": None}
        written = model.generate(**fed, **types, **settings, logits_processor=only)[0, fed["input_ids"].shape[1] :]
        assert np.array_equal(encoder.chunk(written.numpy()).actions, answer.actions)


class Only(LogitsProcessor):
    """Allows these words at each step."""

    def __init__(self, allowed, start):
        self.allowed, self.start = allowed, start

    def __call__(self, ids, scores):
        words = self.allowed[ids.shape[1] - self.start]
        only = torch.full_like(scores, -torch.inf)
        only[:, words] = scores[:, words]
        return only


def test_questions_on_the_same_image_do_not_see_one_another(toy, record_property):
    """A batch of them and a robot sample equals its rows, and a row its questions, one by one."""
    pairs = ("what is it", "red"), ("where is that thing", "on the left"), ("and", "no")
    together = logits(toy, asked(*pairs), robot())[0]
    single = torch.cat([*(logits(toy, asked(pair))[0] for pair in pairs), logits(toy, robot())[0]])
    record_property("difference", float((together - single).abs().max()))
    assert torch.allclose(together, single, atol=2e-5)


@pytest.mark.parametrize("toy", ["smolvlm", "qwen2.5-vl", "gemma3"], indirect=True)
def test_branches_in_mixed_precision(toy):
    pairs = ("what is it", "red"), ("and", "no")
    with torch.autocast("cpu", torch.bfloat16):
        together = logits(toy, asked(*pairs))[0]
        single = torch.cat([logits(toy, asked(pair))[0] for pair in pairs])
    assert torch.allclose(together.float(), single.float(), atol=0.05)


def test_a_missing_image_takes_no_tokens(toy):
    _, _, encoder = toy
    one, both = (encoder.build(sample).sequence for sample in (asked(("what", "red")), robot()))
    ids = encoder.family.image_id
    first = sum(i == ids for i in encoder.family.image_ids([(96, 128)])[0])
    assert (one.ids == ids).sum() == first < (both.ids == ids).sum()


def test_merged_adapters_change_nothing(toy, record_property):
    model, processor, encoder = toy
    fresh = type(model)(model.config)
    fresh.load_state_dict(model.state_dict())
    adapted = add_lora(fresh, Lora(rank=2, rows=list(encoder.vocabulary.action_ids[:8]))).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "token" in name:
                parameter += 0.05 * torch.randn_like(parameter)
    before = logits((adapted, processor, encoder), robot(), asked(("what", "red")))[0]
    after = logits((merged(adapted), processor, encoder), robot(), asked(("what", "red")))[0]
    plain = logits(toy, robot(), asked(("what", "red")))[0]
    record_property("difference", float((before - after).abs().max()))
    assert torch.allclose(before, after, atol=1e-4) and not torch.allclose(before, plain, atol=1e-3)


@pytest.mark.parametrize("toy", ["smolvlm", "paligemma", "qwen2.5-vl"], indirect=True)
def test_blanks_of_a_bidirectional_block_see_one_another(toy):
    model, processor, encoder = toy
    contract = dataclasses.replace(encoder.contract, block="bidirectional")
    blocks = Encoder(contract, encoder.family)
    batch = blocks.batch([blocks.build(robot())])
    positions = scored(batch.labels)
    last = int((batch.inputs.group[0] == BLOCK).nonzero()[-1])
    changed = batch.inputs.ids.clone()
    changed[0, last] = 40
    with torch.inference_mode():
        one, other = (
            blocks.family.score(model, dataclasses.replace(batch.inputs, ids=ids), positions)
            for ids in (batch.inputs.ids, changed)
        )
        # The first blank sees the last one; the token before the block does not.
        assert torch.allclose(one[0], other[0], atol=1e-6) and not torch.allclose(one[1], other[1], atol=1e-6)
        policy = LocalPolicy(model, processor, contract, encoder=blocks)
        assert policy.act([Observation("", images(), np.array([0.1, -0.5]), "go")])[0].actions.shape == (2, 2)


@pytest.mark.parametrize("toy", ["gemma3"], indirect=True)
def test_layers_that_see_a_window_only(toy, monkeypatch):
    """Questions are then computed one by one, with the same result; a bidirectional block is refused."""
    _, _, encoder = toy
    pairs = ("what is it", "red"), ("and", "no")
    together = logits(toy, asked(*pairs))[0]
    monkeypatch.setattr(encoder.family, "window", 32)
    assert torch.allclose(logits(toy, asked(*pairs))[0], together, atol=2e-5)
    blocks = Encoder(dataclasses.replace(encoder.contract, block="bidirectional"), encoder.family)
    with pytest.raises(UserError, match="see a window only"):
        logits((toy[0], toy[1], blocks), robot())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model, processor = published.make("smolvlm")
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def changed(saved, folder, weights=None, **config):
    """A copy of a saved model with other weights or settings."""
    shutil.copytree(saved, folder)
    if weights:
        save_file(weights(load_file(saved / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    return folder


def test_weights_that_lack_or_exceed_are_named(saved, tmp_path):
    norm = "model.text_model.norm.weight"
    lacks = changed(saved, tmp_path / "lacks", lambda weights: {k: v for k, v in weights.items() if k != norm})
    exceeds = changed(saved, tmp_path / "exceeds", lambda weights: {**weights, "model.extra": torch.zeros(2)})
    with pytest.raises(UserError, match="the weights lack model.text_model.norm.weight"):
        load_vlm(lacks, history=1)
    with pytest.raises(UserError, match="what the model has not: model.extra"):
        load_vlm(exceeds, history=1)
    with pytest.raises(UserError, match="what the model has not: model.extra"):
        load_vlm(exceeds, strict=True)
    assert load_vlm(exceeds), "a representation has no use for them"
    frequencies = "model.text_model.layers.0.self_attn.rotary_emb.inv_freq"
    older = changed(saved, tmp_path / "older", lambda weights: {**weights, frequencies: torch.zeros(8)})
    assert load_vlm(older, strict=True) and load_vlm(older, history=1)
    shorter = changed(saved, tmp_path / "shape", lambda weights: {**weights, norm: torch.zeros(7)})
    with pytest.raises(UserError, match=r"text_model.norm.weight has shape \[7\] where its config.json says \[64\]"):
        load_vlm(shorter)
    own = changed(saved, tmp_path / "own", auto_map={"AutoConfig": "code.C"}, model_type="of-their-own")
    with pytest.raises(UserError, match="needs code that comes with its weights") as error:
        load_vlm(own, history=1)
    assert "trust_remote_code" not in error.value.fix and "-hf" in error.value.fix


@pytest.mark.parametrize(
    ("files", "what"),
    [(("tokenizer.json", "tokenizer_config.json"), "no tokenizer"), (("processor_config.json",), "no preprocessor_config.json")],
)
def test_what_a_folder_lacks_of_its_processor_is_named(saved, tmp_path, files, what):
    folder = changed(saved, tmp_path / "lacks")
    for file in files:
        (folder / file).unlink()
    with pytest.raises(UserError, match=what):
        load_vlm(folder)


@pytest.mark.parametrize("toy", ["qwen3-vl"], indirect=True)
def test_a_prompt_longer_than_the_context_is_refused(toy, monkeypatch):
    model, processor, encoder = toy
    monkeypatch.setattr(encoder.family, "context", 100)
    with pytest.raises(UserError, match="a sequence has 2.. tokens, the model's context 100"):
        logits(toy, robot())
    with pytest.raises(UserError, match="the model's context 100"):
        LocalPolicy(model, processor, encoder.contract, encoder=encoder).act(
            [Observation("", images(), np.array([0.1, -0.5]), "go")]
        )
