"""A tiny random model in a folder, and data: what the examples train on. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TOPICS = ["tides", "bread", "bees", "glass", "rivers", "frost", "maps", "clocks"]
PROMPTS = [f"Explain {topic} in one sentence." for topic in TOPICS]
GOOD = [f" {topic.capitalize()} follow a rule that anyone can check." for topic in TOPICS]
BAD = [f" {topic.capitalize()} are {topic}, obviously, as everybody knows." for topic in TOPICS]


def without_checkpointing(config: Any) -> dict[str, bool]:
    """The model is too small for it. transformers 5 gave the argument another name and warns of the old one."""
    new, old = "activation_checkpointing", "gradient_checkpointing"
    return {new if new in config.__dataclass_fields__ else old: False}


def model_in(folder: Path) -> Path:
    """Make model and tokenizer there, once: trainers load the reference model from the same place."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if (folder / "tokenizer.json").exists():
        return folder
    raw: Any = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        PROMPTS + GOOD + BAD,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=SPECIAL[0], eos_token=SPECIAL[1], chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
