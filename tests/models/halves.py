"""Tiny pre-trained halves of the real classes: a Llama with its tokenizer, the same as GGUF, a Bert."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SENTENCES = ["pick up the red cube", "where is the blue ball", "what colour is it", "0 1 2 3 4 5 6 7 8 9"] * 4
WIDTH = 32


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE without integers above 9, locations and images, as language models have it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=290, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", bos_token="<eos>")


def llama(folder: Path, tied: bool = True, words: Sequence[str] = ()) -> LlamaForCausalLM:
    """Writes a Llama with random weights, of the spread of SmolLM2's, and its tokenizer; with further words it is wider."""
    reads = tokenizer()
    reads.add_tokens(list(words))
    config = LlamaConfig(
        vocab_size=len(reads),
        hidden_size=8 * WIDTH if words else WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.136,
        tie_word_embeddings=tied,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    reads.save_pretrained(folder)
    return model


def gguf(model: LlamaForCausalLM, path: Path) -> Path:
    """Writes the same model as a GGUF file, in float32."""
    from gguf import GGUFWriter

    config, words = model.config, tokenizer()
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    for i in range(config.num_hidden_layers):
        parts = {
            "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm",
            **{f"self_attn.{a}_proj": f"attn_{b}" for a, b in {"q": "q", "k": "k", "v": "v", "o": "output"}.items()},
            **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
        }
        names |= {f"model.layers.{i}.{ours}": f"blk.{i}.{theirs}" for ours, theirs in parts.items()}
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    content = json.loads(words.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(content["vocab"], key=content["vocab"].get))
    writer.add_token_types([3] + [1] * (len(words) - 1))
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in content["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, value in model.state_dict().items():
        base = name.removesuffix(".weight")
        if base in names:
            if "q_proj" in base or "k_proj" in base:  # the halves of a rotated pair stand side by side there
                heads = config.num_attention_heads if "q_proj" in base else config.num_key_value_heads
                value = value.reshape(heads, 2, -1, WIDTH).transpose(1, 2).reshape(-1, WIDTH)
            writer.add_tensor(f"{names[base]}.weight", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def bert(folder: Path) -> BertModel:
    """Writes a Bert with random weights, and its tokenizer."""
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    made = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(
        vocab_size=4 + len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = BertModel(config).eval()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=64
    ).save_pretrained(folder)
    return model
