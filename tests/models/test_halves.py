"""A small model put together from two pre-trained halves, as tiny random instances of the real classes."""

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from vla.errors import UserError
from vla.models.adapters import Lora, add_lora, with_token_rows
from vla.models.load import load_vlm
from vla.models.tiny.from_scratch import VLMSpec
from vla.models.tiny.halves import LITE
from vla.tokenization.vocabulary import Vocabulary
from vla.training.optimizer import freeze

NET = {"vision_name": "resnet10t", "vision_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}}


@pytest.fixture(scope="module")
def halves():
    spec = importlib.util.spec_from_file_location("halves", Path(__file__).with_name("halves.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(halves, tmp_path_factory):
    """The language half in its folder, and the model put together."""
    folder = tmp_path_factory.mktemp("llama")
    language = halves.llama(folder)
    model, processor = VLMSpec(
        language_weights=str(folder), vision_name=NET["vision_name"], vision_args=NET["vision_args"]
    ).make()
    return folder, language, model, processor


def says(model, processor, text):
    row = torch.tensor([processor.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return model(row).logits[0, -1]


def test_the_language_half_says_what_it_said(made, halves):
    _, language, model, processor = made
    words = halves.tokenizer()
    with torch.no_grad():
        before = language(torch.tensor([words("pick up the")["input_ids"]])).logits[0, -1]
    after = says(model, processor, "pick up the")
    assert model.config.prefix == "causal" and torch.allclose(after[: len(words)], before, atol=1e-5)


def test_new_words_have_the_scale_of_the_old_and_integers_the_order_of_their_values(made, halves):
    _, language, model, processor = made
    own, weight = len(halves.tokenizer()), model.get_input_embeddings().weight.detach()
    assert model.config.own_words == own and torch.equal(weight[:own], language.get_input_embeddings().weight)
    vocabulary = Vocabulary.from_tokenizer(processor.tokenizer)
    new = [i for i in vocabulary.integer_ids if i >= own]
    assert len(new) == 246 and list(vocabulary.integer_ids[:10]) == [processor.tokenizer.get_vocab()[str(i)] for i in range(10)]
    for ids in (new, list(vocabulary.loc_ids)):
        assert torch.isclose(weight[ids].std(), weight[:own].std(), rtol=0.1)
        similarity = torch.nn.functional.cosine_similarity(weight[ids][:, None], weight[ids][None], dim=-1)
        assert similarity.diagonal(1).mean() > 0.6
    with torch.no_grad():
        image = model.vision(torch.rand(1, 2, 3, 64, 64))
    assert torch.isclose(image.std(), weight[:own].std(), rtol=0.2)


def test_a_gguf_file_is_the_same_model(made, halves, tmp_path):
    pytest.importorskip("gguf")
    _, language, model, processor = made
    path = halves.gguf(language, tmp_path / "small.gguf")
    again, reads = VLMSpec(language_weights=str(path), **NET).make()
    own, text = model.config.own_words, "where is the"
    assert again.config.own_words == own and reads.tokenizer(text)["input_ids"] == processor.tokenizer(text)["input_ids"]
    assert torch.allclose(says(again, reads, text)[:own], says(model, processor, text)[:own], atol=1e-5)


def test_a_vision_network_keeps_its_weights_and_its_batch_norms(tmp_path):
    full = timm.create_model(NET["vision_name"], **NET["vision_args"])
    for module in full.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    save_file({k: v for k, v in full.state_dict().items() if not k.startswith("fc.")}, tmp_path / "eyes.safetensors")
    model, processor = VLMSpec(vision_weights=str(tmp_path / "eyes.safetensors"), **NET).make()
    pixels = torch.rand(4, 3, 64, 64) * 2 - 1
    features = timm.create_model(NET["vision_name"], features_only=True, out_indices=(2,), **NET["vision_args"]).eval()
    features.load_state_dict(full.state_dict(), strict=False)
    model.train()
    with torch.no_grad():
        assert torch.allclose(model.vision.network(pixels)[0], features(pixels)[0], atol=1e-5)
    model.save_pretrained(tmp_path / "saved"), processor.save_pretrained(tmp_path / "saved")
    again, _ = load_vlm(tmp_path / "saved", history=1)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    save_file({"stem.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="of another network: conv1"):
        VLMSpec(vision_weights=str(tmp_path / "other.safetensors"), **NET).make()


def test_the_names_of_the_fetched_efficientnet_are_read_by_their_order(tmp_path, monkeypatch):
    full = timm.create_model(LITE)
    state = {"_conv_stem.weight" if i == 0 else f"_{i}": v for i, v in enumerate(full.state_dict().values())}
    torch.save(state, tmp_path / "lite.pth")
    monkeypatch.setattr("vla.models.tiny.halves.fetched", lambda name: str(tmp_path / "lite.pth"))
    model, _ = VLMSpec(vision_weights="efficientnet-lite0").make()
    assert model.config.vision_name == LITE
    own = model.vision.network.state_dict()
    assert torch.equal(own["conv_stem.weight"], full.state_dict()["conv_stem.weight"]) and len(own) > 50


def test_a_half_that_does_not_fit_says_why(halves, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    halves.llama(tmp_path / "untied", tied=False)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    for wrong, message in [
        ({"language_weights": "smollm2"}, "(?s)has not been fetched.*vla models fetch smollm2"),
        ({"language_weights": str(tmp_path / "untied")}, "output layer has weights of its own"),
        ({"language_weights": str(tmp_path / "none.gguf")}, "no such file"),
        ({"language_weights": str(tmp_path / "broken.gguf")}, "cannot load the language model"),
        ({"language_weights": str(tmp_path / "untied"), "tokenizer": "new"}, "tokenizer is that of the language weights"),
        ({"text_encoder": str(tmp_path / "untied")}, "is no encoder|cannot load the encoder"),
    ]:
        with pytest.raises(UserError, match=message):
            VLMSpec(**wrong, **NET).make()


def test_the_first_rows_of_a_matrix_can_be_frozen_alone(made):
    folder, _, _, _ = made
    model, _ = VLMSpec(language_weights=str(folder), **NET).make()
    own, table = model.config.own_words, model.get_input_embeddings().weight
    freeze(model, ["language.layers", "language.norm", f"language.embed_tokens[:{own}]"])
    before, optimizer = table.detach().clone(), torch.optim.AdamW([table], weight_decay=0.0)
    for _ in range(2):
        model.logits(model.hidden(torch.tensor([[5, 9, own + 20]])).last_hidden_state).square().sum().backward()
        optimizer.step()
    assert torch.equal(table[:own], before[:own]) and not torch.equal(table[own:], before[own:])


def test_adapters_train_the_new_words_and_merge(made):
    from vla.contract import PolicyContract
    from vla.sim.tabletop.embodiment import EMBODIMENT

    folder, _, _, _ = made
    model, processor = VLMSpec(language_weights=str(folder), **NET).make()
    vocabulary, own = Vocabulary.from_tokenizer(processor.tokenizer), model.config.own_words
    lora = with_token_rows(Lora(rank=2, targets=r"language\..*proj"), PolicyContract({"x": EMBODIMENT}), vocabulary, own)
    assert lora.rows and len(lora.rows) == 246 + 64 and min(lora.rows) >= own
    adapted = add_lora(model, lora).train()
    row = torch.tensor([[5, 9, own + 20]])
    learning = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    adapted(row).logits.logsumexp(-1).sum().backward()
    optimizer.step()
    with torch.no_grad():
        before = adapted.eval()(row).logits
        assert torch.allclose(adapted.merge_and_unload()(row).logits, before, atol=1e-4)


def test_a_small_models_images_are_mapped_among_the_words(halves, tmp_path):
    """As for SmolLM2 with `tiny`: a language model that knows words of the small model, and has none for integers."""
    words = [w for w in load_vlm("tiny")[1].tokenizer.get_vocab() if w.startswith("Ġ") and len(w) > 3]
    halves.llama(tmp_path, words=words)
    model, processor = VLMSpec(language_weights=str(tmp_path), vision_weights="tiny").make()
    small, reads = load_vlm("tiny")
    images, own = torch.rand(2, 2, 3, 64, 64) * 2 - 1, model.config.own_words
    known, old = processor.tokenizer.get_vocab(), small.get_input_embeddings().weight
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        tokens, before = model.vision(images), small.vision(images)
        assert torch.allclose(tokens, model.vision.widen(before), atol=1e-5)
        # What the small model knows of an image is there: it can be read back linearly.
        back = torch.linalg.lstsq(model.vision.widen.weight, (tokens - model.vision.widen.bias).flatten(0, 1).T).solution.T
        assert torch.allclose(back, before.flatten(0, 1), atol=0.02)
        # An integer is as far from another as it was.
        rows = weight[[known[str(i)] for i in (40, 41, 200)]], old[[reads.tokenizer.get_vocab()[str(i)] for i in (40, 41, 200)]]
        ratio = [(row[0] - row[1]).norm() / (row[0] - row[2]).norm() for row in rows]
        assert known["200"] >= own and abs(ratio[0] - ratio[1]) < 0.15
    assert torch.isclose(tokens.std(), weight[:own].std(), rtol=0.5)
    model.save_pretrained(tmp_path / "out"), processor.save_pretrained(tmp_path / "out")
    assert torch.allclose(load_vlm(tmp_path / "out")[0].vision(images), tokens, atol=1e-6)


def test_a_small_models_vision_that_does_not_fit_is_refused(made):
    folder = str(made[0])
    for spec, cameras, message in (
        (VLMSpec(vision_weights="tiny"), 2, "for another language model"),
        (VLMSpec(language_weights=folder, vision_weights="tiny"), 3, "sees 2 cameras, the data have 3"),
        (VLMSpec(language_weights=folder, vision_weights=folder), 2, "cannot load the model"),
        (VLMSpec(language_weights=folder, vision_weights="tiny"), 2, "in common"),
    ):
        with pytest.raises(UserError, match=message):
            spec.make(cameras=cameras)
