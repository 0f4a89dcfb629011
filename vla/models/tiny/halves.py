"""Pre-trained halves of a small vision-language model: the weights of a language model and of a vision network."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
import transformers
from safetensors.torch import load_file
from timm.models import is_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vla import hub
from vla.errors import UserError
from vla.fetched import fetched
from vla.models.ordinal_embeddings import ordinal_init
from vla.models.tiny.model import TinyVLM
from vla.models.tiny.text import INTEGERS, LOCATIONS

SPACE, LEAST_SHARED = "Ġ", 16
LITE = "tf_efficientnet_lite0"
"""The network of the fetched EfficientNet-Lite0: its padding and batch norms are TensorFlow's."""


def load_language(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model, without its head, and its tokenizer.

    Args:
        name: a fetched model (`vla models list`), a folder, a GGUF file, or OWNER/NAME of a public model.

    Raises:
        UserError: there is no such model, it is no causal language model, or its head has weights of its own.
    """
    where = fetched(name)
    options: dict[str, Any] = {}
    if where.endswith(".gguf"):
        if not Path(where).is_file():
            raise UserError("no such file", where, "give a GGUF file, a folder or a public model's name")
        where, options = str(Path(where).parent), {"gguf_file": Path(where).name}
    else:
        where, options = str(hub.weights_folder(where)), {"use_safetensors": True}
    try:
        # Newer versions would keep the file's blocks, which do not learn, where they have kernels for them.
        gguf_config = getattr(transformers, "GgufConfig", None) if "gguf_file" in options else None
        dense = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
        model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options, **dense)
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=options.get("gguf_file"))
    except ImportError as error:
        raise UserError("gguf is not installed", name, "install vla[gguf]") from error
    except (OSError, ValueError, RuntimeError, LookupError, struct.error) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load the language model: {why}", name, "give a folder, a GGUF file or a public model") from error
    head, words = (cast(nn.Embedding, layer) for layer in (model.get_output_embeddings(), model.get_input_embeddings()))
    if not torch.equal(head.weight, words.weight):
        raise UserError("its output layer has weights of its own", name, "give a model whose output layer is its embeddings")
    return cast(PreTrainedModel, model.base_model), tokenizer


@torch.no_grad()
def put_language(model: TinyVLM, language: PreTrainedModel, known: Mapping[str, int], seed: int) -> None:
    """Copies a language model's weights; words that it did not have get new rows, and the image tokens the scale of its words.

    New integers and locations start as ordinal codes, all others as draws, with the spread of the rows that are there.

    Args:
        known: word -> id of the completed tokenizer. Those from `model.config.own_words` on are new.
        seed: seed of the new rows.
    """
    source, own = language.state_dict(), model.config.own_words
    words = cast(nn.Embedding, language.get_input_embeddings()).weight
    target = model.get_input_embeddings().weight
    name = next(n for n, weight in model.language.named_parameters() if weight is target)
    rest = model.language.load_state_dict({n: v for n, v in source.items() if n != name}, strict=False)
    if rest.unexpected_keys or set(rest.missing_keys) - {name}:
        what = ", ".join([*rest.unexpected_keys, *rest.missing_keys][:3])
        raise UserError(
            f"its weights are not those of a {model.config.text_config.model_type}: {what}", "model.vlm.language_weights"
        )
    generator = torch.Generator().manual_seed(seed)
    old = words[:own]
    target[:own] = old
    target[own:] = old.mean(0) + old.std(0) * torch.randn(len(target) - own, old.shape[1], generator=generator)
    for turn, tokens in enumerate((INTEGERS, LOCATIONS)):
        if ids := [known[token] for token in tokens if known[token] >= own]:
            ordinal_init(target, ids, seed=seed + turn)
    if model.vision.widen is None:
        model.vision.norm.weight.fill_(float(old.std()))


@torch.no_grad()
def put_small_vision(model: TinyVLM, source: TinyVLM, words: Mapping[str, int], known: Mapping[str, int], seed: int) -> None:
    """Copies the whole vision part of a small model, and maps its image tokens among the words of the language model.

    The map is linear. It takes the embedding of a word in the small model to that of the same word in the language model (least
    squares); directions that no shared word has, such as those of positions, it turns at random and keeps apart. Image tokens get
    the spread of words. The rows of added integers and locations are mapped alike.

    Args:
        source: the small model.
        words: its words, word -> id.
        known: word -> id of the completed tokenizer; those from `model.config.own_words` on are new.
        seed: seed of the turn.
    """
    widen = cast(nn.Linear, model.vision.widen)
    wrong = model.vision.load_state_dict(source.vision.state_dict(), strict=False)
    if wrong.unexpected_keys or {name.partition(".")[0] for name in wrong.missing_keys} != {"widen"}:
        raise UserError("its images have another history or other cameras", "model.vlm.vision_weights", "give a model with these")
    old, target, own = source.get_input_embeddings().weight, model.get_input_embeddings().weight, model.config.own_words
    # A leading space, as a byte-level tokenizer writes it, and whole words: parts of words have no meaning to share.
    shared = [word for word in words if word.startswith(SPACE) and len(word) > 3 and known.get(word, own) < own]
    if len(shared) < LEAST_SHARED:
        what = f"its words and those of the language model have {len(shared)} in common"
        raise UserError(what, "model.vlm.vision_weights", "both need a byte-level tokenizer of English")
    x, y = old[[words[word] for word in shared]], target[[known[word] for word in shared]]
    centre, to = x.mean(0), y.mean(0)
    left, sizes, right = torch.linalg.svd(x - centre, full_matrices=False)
    # Directions in which the shared words hardly differ would be stretched.
    kept = sizes > 0.1 * sizes[0]
    along = right[kept].T @ (left[:, kept].T @ (y - to) / sizes[kept, None])
    apart = torch.eye(x.shape[1]) - right[kept].T @ right[kept]
    turn = torch.randn(x.shape[1], y.shape[1], generator=torch.Generator().manual_seed(seed)) / y.shape[1] ** 0.5
    matrix = along + apart @ turn * (y.std() * y.shape[1] ** 0.5 / (x.std() * x.shape[1] ** 0.5))
    for token in (*INTEGERS, *LOCATIONS):
        if known[token] >= own and token in words:
            target[known[token]] = to + (old[words[token]] - centre) @ matrix
    # In the small model image tokens are longer than words.
    scale = x.std() / source.vision.norm.weight.square().mean().sqrt()
    widen.weight.copy_(scale * matrix.T)
    widen.bias.copy_(to - scale * centre @ matrix)


def vision_name(weights: str, name: str) -> str:
    """The timm network that weights are of, where the weights say which."""
    if weights == "efficientnet-lite0":
        return LITE
    if remote := hub.policy_address(weights):
        weights = remote.repo.rpartition("/")[2]
    return weights.partition(".")[0] if is_model(weights.partition(".")[0]) else name


@torch.no_grad()
def put_vision(model: TinyVLM, weights: str) -> None:
    """Copies pre-trained weights into the vision network.

    Args:
        weights: a fetched model, a file of timm's state dict (safetensors, or torch's with plain tensors), OWNER/NAME of a
            repository of such weights, or a name of timm's own weights, which timm downloads, such as resnet18.a1_in1k.

    Raises:
        UserError: there are no such weights, or they are of another network.
    """
    config, where = model.config, fetched(weights)
    if hub.policy_address(weights):
        where = str(hub.weights_folder(weights) / "model.safetensors")
    try:
        if Path(where).suffix in (".safetensors", ".pth", ".pt", ".bin"):
            full = timm.create_model(config.vision_name, **(config.vision_args or {}))
            _load(full, _read(Path(where)), weights)
        else:
            full = timm.create_model(weights, pretrained=True, **(config.vision_args or {}))
    except UserError:
        raise
    except Exception as error:  # a hub that cannot be reached raises many types of errors
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot load the vision network: {why}", weights, "give a file or a name of timm's weights") from error
    # A network of features flattens the names of its stages.
    source = {name.replace(".", "_"): value for name, value in full.state_dict().items()}
    target = {name.replace(".", "_"): value for name, value in model.vision.network.state_dict(keep_vars=True).items()}
    if lost := sorted(target.keys() - source.keys()):
        raise UserError(
            f"{config.vision_name} names its features otherwise: {lost[0]}", weights, "choose a convolutional network"
        )
    for name, value in target.items():
        value.copy_(source[name])


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)


def _load(full: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Loads a state dict; its classifier may be missing or of another size."""
    own = full.state_dict()
    if "_conv_stem.weight" in state and len(state) == len(own):
        # The layers' names are those of another EfficientNet; their order is timm's.
        state = dict(zip(own, state.values(), strict=True))
    head = str(full.default_cfg.get("classifier", "")) + "."  # type: ignore[union-attr]
    wrong = [n for n, v in own.items() if not n.startswith(head) and (n not in state or state[n].shape != v.shape)]
    if wrong:
        raise UserError(
            f"they are of another network: {', '.join(wrong[:3])} is missing or has another shape",
            name,
            "set model.vlm.vision_name and vision_args to those of the weights",
        )
    full.load_state_dict({n: v for n, v in state.items() if n in own and v.shape == own[n].shape}, strict=False)
