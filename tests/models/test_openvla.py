"""Published OpenVLA checkpoints: the numbers of the original's arithmetic, written out with timm, transformers and numpy only."""

import base64
import dataclasses
import json
import shutil

import httpx
import numpy as np
import published_openvla as published
import pytest
import torch
from PIL import Image

from vla.datasets.samples import RobotSample
from vla.errors import UserError
from vla.models.adapters import Lora, add_lora, merged
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.models.logprobs import scored, token_logprobs
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.policies.openvla_checkpoint import Checkpoint
from vla.sequences.encode import Encoder
from vla.serving.server import running
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.tokenization.codecs import action_codec

INSTRUCTION = "Pick up the RED cube"
KEY = "bridge_orig"


class Original:
    """What the published code computes, for one sequence: patches after <s>, then a causal language model."""

    def __init__(self, parts, norm_stats):
        self.parts, self.stats = parts, norm_stats
        self.tokenizer = published.tokenizer()

    def prompt(self, instruction):
        ids = self.tokenizer.encode(f"In: What action should the robot take to {instruction.lower()}?\nOut:").ids
        return [*ids, 29871]

    def pixels(self, image):
        square = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
        levels = torch.from_numpy(np.asarray(square, np.float32) / 255).permute(2, 0, 1)
        made = published.PREPROCESSOR
        each = zip(made["means"], made["stds"], strict=True)
        return [(levels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None] for mean, std in each]

    def logits(self, ids, image):
        seen = []
        for network, pixels in zip(self.parts.vision, self.pixels(image), strict=True):
            (patches,) = network.get_intermediate_layers(pixels[None], n={len(network.blocks) - 2})
            seen.append(patches)
        layers = self.parts.projector
        patches = layers["fc1"](torch.cat(seen, 2))
        patches = layers["fc3"](torch.nn.functional.gelu(layers["fc2"](torch.nn.functional.gelu(patches))))
        words = self.parts.language.get_input_embeddings()(torch.tensor([ids]))
        return self.parts.language(inputs_embeds=torch.cat([words[:, :1], patches, words[:, 1:]], 1)).logits[0]

    def action(self, image, instruction, key):
        """Greedy ids and the un-normalised action."""
        ids = self.prompt(instruction)
        prompt = len(ids)
        for _ in range(7):
            ids.append(int(self.logits(ids, image)[-1].argmax()))
        written = np.array(ids[prompt:])
        edges = np.linspace(-1, 1, 256)
        centres = (edges[:-1] + edges[1:]) / 2
        values = centres[np.clip(32064 - 64 - written - 1, 0, 254)]
        stats = {name: np.array(row) for name, row in self.stats[key]["action"].items()}
        return written, np.where(stats["mask"], 0.5 * (values + 1) * (stats["q99"] - stats["q01"]) + stats["q01"], values)

    def ids(self, action, key):
        """The token ids of an action in training."""
        stats = {name: np.array(row) for name, row in self.stats[key]["action"].items()}
        scaled = np.clip(2 * (action - stats["q01"]) / (stats["q99"] - stats["q01"] + 1e-8) - 1, -1, 1)
        scaled = np.where(stats["min"] == stats["max"], 0.0, np.where(stats["mask"], scaled, action))
        return 32000 - np.digitize(np.clip(scaled, -1, 1), np.linspace(-1, 1, 256))


@pytest.fixture(scope="module")
def parts():
    return published.parts()


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    return published.save(tmp_path_factory.mktemp("openvla") / "openvla-7b", parts)


@pytest.fixture(scope="module")
def original(parts):
    return Original(parts, published.NORM_STATS)


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(f"{folder}?unnorm_key={KEY}")


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)


def sample(image, action):
    return RobotSample(
        {"image": image}, np.zeros(7, np.float32), action[None].astype(np.float32), np.ones(1, bool), np.zeros(1, bool),
        INSTRUCTION, "", None, None, 0, 0, KEY,
    )  # fmt: skip


@torch.inference_mode()
def test_logits_are_the_originals(policy, original, image):
    encoder = policy.encoder
    inputs = encoder.batch([encoder.act(Observation("", {"image": image}, np.zeros(7), INSTRUCTION))]).inputs
    length = int(inputs.attention.sum())
    expected = original.prompt(INSTRUCTION)
    assert inputs.ids[0, :length].tolist() == [expected[0], *[0] * 256, *expected[1:]]
    got = encoder.family.score(policy.model, inputs, inputs.attention.bool())
    assert torch.allclose(got, original.logits(expected, image), atol=1e-4)


@torch.inference_mode()
def test_actions_are_the_originals_also_when_served(policy, original, image):
    ids, expected = original.action(image, INSTRUCTION, KEY)
    assert set(ids.tolist()) <= set(range(31744, 32000)) and len(set(ids.tolist())) > 1
    (chunk,) = policy.act([Observation("", {"image": image}, np.zeros(7), INSTRUCTION)])
    assert chunk.actions[0] == pytest.approx(expected, abs=1e-6)
    array = {"__numpy__": base64.b64encode(image.tobytes()).decode(), "dtype": "|u1", "shape": list(image.shape)}
    _, other = original.action(image, INSTRUCTION, "fractal20220817_data")
    with running(policy) as url:
        for key, wanted in ((KEY, expected), ("fractal20220817_data", other)):
            request = {"image": array, "instruction": INSTRUCTION, "unnorm_key": key}
            for body in (request, {"encoded": json.dumps(request)}):
                answer = httpx.post(f"{url}/act", json=body, timeout=60).json()
                answer = json.loads(answer) if isinstance(answer, str) else answer
                got = np.frombuffer(base64.b64decode(answer["__numpy__"]), answer["dtype"])
                assert got == pytest.approx(wanted, abs=1e-6)


@torch.inference_mode()
def test_loss_is_the_originals(policy, original, image):
    action = np.array([0.1, -0.2, 0.3, 0.0, 2.0, -2.0, 1.0], np.float32).astype(np.float64)
    ids = original.prompt(INSTRUCTION)
    answer = original.ids(action, KEY).tolist()
    logits = original.logits([*ids, *answer, 2], image)
    nll = torch.nn.functional.cross_entropy(logits[-9:-1], torch.tensor([*answer, 2]), reduction="none")
    encoder = policy.encoder
    batch = encoder.batch([encoder.robot(sample(image, action))])
    positions = scored(batch.labels)
    got = -token_logprobs(encoder.family.score(policy.model, batch.inputs, positions), batch.labels[:, 1:][positions[:, :-1]])
    assert torch.allclose(got, nll[:7], atol=1e-4)
    # The original also scores the end token after the action.
    whole = torch.tensor([[ids[0], *[0] * 256, *ids[1:], *answer, 2]])
    labels = whole.masked_fill(torch.arange(whole.shape[1]) < whole.shape[1] - 8, -100)
    loss = policy.model(whole, labels=labels, pixel_values=encoder.family.images([[image]])["pixel_values"]).loss
    assert loss.item() == pytest.approx(nll.mean().item(), abs=1e-4)


@pytest.mark.parametrize("constant", [-1, 2])
def test_bins_are_the_originals(tmp_path, constant):
    stats = {KEY: published.statistics(3, constant)}
    (tmp_path / "config.json").write_text(json.dumps(published.config(stats)))
    codec, original = action_codec(Checkpoint.find(str(tmp_path)).contract()), Original(None, stats)
    rng = np.random.default_rng(0)
    for action in (*rng.normal(size=(200, 7)), np.array(stats[KEY]["action"]["q99"]), np.ones(7), -np.ones(7)):
        symbols, _ = codec.encode(action[None], np.zeros(1, bool))
        assert np.array_equal(31999 - symbols, original.ids(action, KEY))


def test_v01_sees_through_one_network(tmp_path, image):
    made = published.parts(networks=(1,))
    published.save(tmp_path, made)
    policy = load_policy(f"{tmp_path}?unnorm_key={KEY}&center_crop=1")
    assert policy.contract.crop == pytest.approx(0.9**0.5)
    encoder = policy.encoder
    example = encoder.act(Observation("", {"image": image}, np.zeros(7), "GO"))
    words = policy.encoder.tokenizer.decode(example.sequence.ids[257:].tolist())
    assert words.endswith("USER: What action should the robot take to go? ASSISTANT: ") and example.sequence.ids[-1] == 29871
    assert example.images[0].shape == (243, 243, 3)
    pixels = encoder.family.images([[image]])["pixel_values"]
    with torch.inference_mode():
        (patches,) = made.vision[0].get_intermediate_layers(pixels, n={2})
        expected = made.projector["fc2"](torch.nn.functional.gelu(made.projector["fc1"](patches)))
        assert torch.allclose(policy.model.projector(policy.model.vision_backbone(pixels)), expected, atol=1e-5)


def test_adapters_learn_and_merge_and_a_saved_model_is_the_same(folder, policy, image, tmp_path):
    model, processor = load_vlm(folder)
    assert not any("attn_pool" in name for name in model.state_dict()), "what has no effect is not kept"
    encoder = Encoder(policy.contract, family_of(model, processor))
    adapted = add_lora(model, Lora(rank=4, rows=list(encoder.vocabulary.action_ids))).train()
    batch = encoder.batch([encoder.robot(sample(image, np.full(7, x))) for x in (0.1, 0.4)])
    positions = scored(batch.labels)
    ids = batch.labels[:, 1:][positions[:, :-1]]

    def loss(model):
        return -token_logprobs(encoder.family.score(model, batch.inputs, positions), ids).mean()

    learning = [(name, p) for name, p in adapted.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for _, p in learning], 1e-2)
    first = loss(adapted)
    first.backward()
    assert {part for part in ("vision_backbone", "projector", "language_model") for name, _ in learning if part in name} == {
        "vision_backbone", "projector", "language_model",
    }  # fmt: skip
    assert not [name for name, p in learning if p.grad is None], "every adapter has its part in the loss"
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad()
        last = loss(adapted)
        last.backward()
    assert last < first
    with torch.inference_mode():
        before = loss(adapted.eval())
        plain = merged(adapted)
        assert loss(plain).item() == pytest.approx(before.item(), abs=1e-4)
        plain.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        again, its = load_vlm(tmp_path)
        assert loss(again).item() == pytest.approx(before.item(), abs=1e-6)
    assert (its.means, its.image_resize_strategy, its.patch) == (processor.means, processor.image_resize_strategy, 14)


def test_drives_a_robot_that_it_does_not_know(folder, original, image):
    robots = {EMBODIMENT_NAME: EMBODIMENT}
    policy = load_policy(f"{folder}?unnorm_key={KEY}&camera=wrist", embodiments=robots)
    blank = np.zeros((64, 64, 3), np.uint8)
    observation = Observation("", {"front": blank, "wrist": image}, np.zeros(5), INSTRUCTION, EMBODIMENT_NAME)
    with torch.inference_mode():
        _, expected = original.action(image, INSTRUCTION, KEY)
    (chunk,) = policy.act([observation])
    assert chunk.actions[0, :6] == pytest.approx(expected[:6], abs=1e-6)
    assert chunk.actions[0, 6] == (-1 if expected[6] > 0.5 else 1)
    with pytest.raises(UserError, match="no camera 'top'"):
        load_policy(f"{folder}?unnorm_key={KEY}&camera=top", embodiments=robots)


def test_bad_checkpoints_and_names_are_refused(folder, policy, tmp_path):
    with pytest.raises(UserError) as error:
        load_policy(str(folder))
    assert "statistics of 2 data sets" in str(error.value) and "bridge_orig, fractal20220817_data" in str(error.value)
    for name, words in ((f"{folder}?unnorm_key=no", "no statistics of 'no'"), (f"{folder}?key=no", "unknown option 'key'")):
        with pytest.raises(UserError, match=words):
            load_policy(name)
    with pytest.raises(UserError, match="takes one image"):
        robot = policy.contract.embodiment()
        two = dataclasses.replace(robot, cameras=(*robot.cameras, dataclasses.replace(robot.cameras[0], name="wrist")))
        Encoder(dataclasses.replace(policy.contract, embodiments={KEY: two}), policy.encoder.family)
    oft = tmp_path / "oft"
    shutil.copytree(folder, oft)
    for name in ("action_head--150000_checkpoint.pt", "proprio_projector--150000_checkpoint.pt"):
        (oft / name).touch()
    for load in (load_vlm, lambda path: load_policy(f"{path}?unnorm_key={KEY}")):
        with pytest.raises(UserError, match="OpenVLA-OFT checkpoint: it has an action head"):
            load(oft)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    shutil.copytree(folder, tmp_path / "less")
    save_file({k: v for k, v in weights.items() if "fc2" not in k or "projector" not in k}, tmp_path / "less/model.safetensors")
    with pytest.raises(UserError, match="the weights lack projector.fc2"):
        load_vlm(tmp_path / "less")
    # The statistics of a fine-tuned checkpoint replace those of config.json.
    (oft / "action_head--150000_checkpoint.pt").unlink()
    (oft / "proprio_projector--150000_checkpoint.pt").unlink()
    (oft / "dataset_statistics.json").write_text(json.dumps({"mine": published.statistics(5)}))
    assert list(Checkpoint.find(str(oft)).contract().embodiments) == ["mine"]
