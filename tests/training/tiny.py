"""Tiny random models, data and a recording that keeps everything: what the training tests share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_trail.rows import completed, encode_rows, rollout_rows

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORDS = "the sky is blue and water runs down hill because it must while birds sing of rain".split()


class ListRecording:
    """Keeps events as a reader would get them: encoded by the real codec and decoded again."""

    def __init__(self, run_id: str = "run", rank: int = 0, world_size: int = 1) -> None:
        self.run_id, self.rank, self.world_size = run_id, rank, world_size
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.undecodable: list[str] = []

    def record(self, kind: str, fields: Mapping[str, Any], /) -> None:
        known = KINDS[kind]
        record = completed(known, fields, ts_us=0, run_id=self.run_id, rank=self.rank)
        try:
            body = known.codec.encode(record | {"salt": bytes(16)})
        except Exception:  # noqa: BLE001 - the spool declares it lost, whatever it was
            self.undecodable.append(kind)
            return
        self.events.append((kind, known.codec.decode(body)))

    def log_rollouts(
        self,
        *,
        prompts: Sequence[str | bytes],
        completions: Sequence[str | bytes],
        rewards: Mapping[str, Sequence[float | None]],
        step: int | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        rows = rollout_rows(prompts=prompts, completions=completions, rewards=rewards, step=step, ids=ids)
        kind = KINDS["rollout"]
        common = {"ts_us": 0, "run_id": self.run_id, "rank": self.rank}
        for body in encode_rows(kind, rows, common, store_text=False):
            self.events.append(("rollout", kind.codec.decode(body)))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for name, event in self.events if name == kind]


def text(seed: int, length: int = 6) -> str:
    return " ".join(WORDS[(seed * 7 + at * 3 + at * at * seed) % len(WORDS)] for at in range(length))


def pairs(count: int) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "annotation_id": [f"judgement-{at}" for at in range(count)],
            "prompt": [text(at) for at in range(count)],
            "chosen": [" " + text(at + 100, 5) for at in range(count)],
            "rejected": [" " + text(at + 200, 5) for at in range(count)],
        }
    )


def texts(count: int) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {"annotation_id": [f"text-{at}" for at in range(count)], "text": [text(at, 12) for at in range(count)]}
    )


def prompts(count: int) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {"annotation_id": [f"prompt-{at}" for at in range(count)], "prompt": [text(at) for at in range(count)]}
    )


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([text(at, 12) for at in range(50)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>", chat_template=TEMPLATE
    )


def save_model(folder: Path) -> None:
    """Model and tokenizer in a folder: the reference model is loaded from there again."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def settings(output: Path, **more: Any) -> dict[str, Any]:
    """Arguments of every trainer here: CPU, seeded, one log line a step."""
    found: dict[str, Any] = {
        "output_dir": str(output),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "seed": 11,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.5,
        "save_strategy": "no",
        "per_device_train_batch_size": 2,
        "max_steps": 4,
    }
    if "RANK" in os.environ:
        found |= {"ddp_backend": "gloo", "ddp_find_unused_parameters": False}
    return found | more
