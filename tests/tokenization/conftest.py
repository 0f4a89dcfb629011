"""Small trained tokenizers of every family, and a robot of three dimensions, one of which is constant."""

import functools

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vla.contract import Camera, Embodiment, PolicyContract
from vla.space import Space
from vla.tokenization.codecs import fitted


def make_tokenizer(skip: str = "") -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")
    tokens = [f"<loc{i:02d}>" for i in range(64)] + [str(i) for i in range(255, -1, -1)]
    tokenizer.add_tokens([t for t in tokens if t != skip])
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def without_200():
    return make_tokenizer(skip="200")


WORDS = " ".join(
    [
        *map(str, range(256)),
        "lift the red cube , - -10 0 1 2 3 4 5 6 7 8 9 what action should the robot take to do ? In Out : A Q",
    ]
)


def byte_level() -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, special_tokens=["<bos>"], show_progress=False)
    raw.train_from_iterator([WORDS] * 3, trainer)
    return raw


def sentencepiece() -> Tokenizer:
    """Like Llama's: byte-pair encoding over words that begin with ▁, with byte fallback."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", "<bos>", *bytes_], show_progress=False)
    raw.train_from_iterator([WORDS] * 3, trainer)
    return raw


def word_piece() -> Tokenizer:
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    raw.train_from_iterator([WORDS] * 3, trainer)
    return raw


@pytest.fixture(scope="session")
def families():
    """Small trained tokenizers, one per family, each with an end and a padding token."""
    kinds = {"byte-level": byte_level, "sentencepiece": sentencepiece, "wordpiece": word_piece}
    return {
        name: PreTrainedTokenizerFast(
            tokenizer_object=make(), eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
        )
        for name, make in kinds.items()
    }


CHUNK = 5
STATISTICS = {"q01": (-0.04, 0.1, -1.0), "q99": (0.045, 0.1, 1.0)}
SPACE = Space(("x", "still", "gripper"), ("m", "rad", ""), (-0.05, -0.3, -1.0), (0.05, 0.3, 1.0), (None, 0.1, None), STATISTICS)
ROBOT = Embodiment((Camera("front", 64, 64),), SPACE, SPACE)


@functools.cache
def robot_data() -> np.ndarray:
    """Chunks [N, T, A]: mostly small moves, sometimes none, and a gripper that is open or closed."""
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(0, 0.02, 3000), -0.05, 0.05)
    x[rng.random(3000) < 0.1] = 0
    steps = np.stack([x, np.full(3000, 0.1), np.where(np.sin(np.arange(3000) / 9) > 0, 1.0, -1.0)], 1)
    return np.stack([steps[i : i + CHUNK] for i in range(len(steps) - CHUNK)])


@functools.cache
def robot_contract(codec: str, chunk: int = CHUNK, terminate: bool = True) -> PolicyContract:
    args = {"vocab_size": 256} if codec == "fast" else {}
    chosen = PolicyContract({"arm": ROBOT}, codec=codec, chunk=chunk, terminate=terminate, codec_args=args)
    return fitted(chosen, lambda _: robot_data()[:, :chunk])


@pytest.fixture(scope="session")
def chunks():
    """The robot's data."""
    return robot_data()


@pytest.fixture(scope="session")
def contract():
    """(codec, chunk, terminate) -> the contract of a robot with that codec, fitted on its data."""
    return robot_contract
