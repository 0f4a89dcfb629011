"""docs/extending.md: its examples are the files of examples/extending, and they work."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from vla import cli
from vla.contract import PolicyContract
from vla.datasets.samples import RobotSample
from vla.models.families.find import family_of
from vla.models.load import load_vlm
from vla.models.logprobs import scored, token_logprobs
from vla.models.tiny.text import train_tokenizer
from vla.observation import Observation
from vla.plugins import plugins
from vla.policies.load import load_policy
from vla.policies.local import LocalPolicy
from vla.sequences.encode import Encoder
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples/extending"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs entry points of the examples, as an installer would."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def write(group, name, value):
        about = tmp_path / "site/mine-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
        plugins.cache_clear()

    yield write
    plugins.cache_clear()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_page_shows_each_example_and_it_is_short(path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    assert path.read_text() in blocks and len(path.read_text().splitlines()) <= 80


def test_a_family_of_ones_own_learns_and_acts(install, tmp_path):
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    install("vla.families", "llava", "llava_family:LlavaFamily")
    tokenizer = train_tokenizer(["Q: what action should the robot take to lift the red cube? state: A:"] * 3, vocab_size=300)
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = LlavaProcessor(CLIPImageProcessor(**sizes), tokenizer, patch_size=7, vision_feature_select_strategy="full")
    small = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"model_type": "llama", "hidden_size": 48, "num_key_value_heads": 2, "vocab_size": len(tokenizer), **small}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "image_size": 28, "patch_size": 7, **small}
    image = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config={**vision, "vision_use_head": False}, text_config=text, image_token_index=image,
            vision_feature_select_strategy="full",
        )
    ).save_pretrained(tmp_path / "vlm")  # fmt: skip
    processor.save_pretrained(tmp_path / "vlm")

    model, processor = load_vlm(tmp_path / "vlm", history=1)
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=1, execute=1, plan=())
    family, space, rng = family_of(model, processor), EMBODIMENT.action, np.random.default_rng(0)
    encoder = Encoder(contract, family)

    def sample(words):
        images = {c.name: rng.integers(0, 256, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
        varied = rng.uniform(space.low, space.high, (1, space.size))
        actions = np.where([c is None for c in space.constant], varied, [c or 0.0 for c in space.constant])
        once = {"terminate": np.zeros(1, bool), "mask": np.ones(1, bool), "state": np.zeros(5, np.float32)}
        where = {"target": "", "point": None, "offset": None, "episode": 0, "step": 0, "embodiment": EMBODIMENT_NAME}
        return RobotSample(images=images, actions=actions.astype(np.float32), instruction=words, **once, **where)

    samples = [sample("lift the red cube"), sample("go")]
    batch = encoder.batch([encoder.robot(one) for one in samples])
    positions = scored(batch.labels)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(60):
        logits = family.score(model, batch.inputs, positions)
        loss = -token_logprobs(logits, batch.labels[:, 1:][positions[:, :-1]]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    observed = [Observation(one.instruction, one.images, one.state, one.instruction) for one in samples]
    half_bin = (np.array(space.high) - space.low) / 512 + 1e-6
    for batch_size in (1, 2):
        chunks = LocalPolicy(model, processor, contract, batch=batch_size).act(observed)
        assert all((abs(c.actions - one.actions) <= half_bin).all() for c, one in zip(chunks, samples, strict=True))


def test_a_learner_of_ones_own_learns_and_acts(install, data, tmp_path):
    pytest.importorskip("stable_baselines3")
    install("vla.learners.offline", "huber", "huber_cloning:HuberCloning")
    config = tmp_path / "huber.yaml"
    config.write_text(
        f"out: {tmp_path}/run\n"
        "observation: {class_path: vla.rl.envs.observation.EnvironmentObservation, init_args: {observe: [pixels]}}\n"
        "policy: {pooler: {width: 8, hidden: 8, out: 8}, net: [16]}\n"
        f"learner: {{name: huber, arguments: {{batch: 8, delta: 0.05}}, data: {data}/robot}}\n"
        "budget: {steps: 4, checkpoint: 2}\n"
    )
    assert cli.main(["rl", "fit", "-c", str(config)]) == 0
    images = {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    (chunk,) = load_policy(str(tmp_path / "run/export")).act([Observation("a", images, np.zeros(5), "go")])
    assert np.isfinite(chunk.actions).all()
    assert cli.main(["rl", "fit", "-c", str(config), "--learner.arguments={delta: -1}", f"--out={tmp_path}/other"]) == 2
