"""Tiny random models, data and a recording that keeps everything: what the training tests share."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_audit_schemas.kinds import KINDS
from rlhf_audit_trail.rows import RowsEncoder, completed, rollout_rows

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORDS = ["sky", "is", "blue", "and", "water", "runs", "down", "hill", "because", "it", "must", "birds", "sing", "rain"]


def need(*modules: str) -> None:
    """Skip a test module aloud where a library is missing; fail where everything has to be there."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError:
            if os.environ.get("REQUIRE_SERVICES"):
                raise
            pytest.skip(f"{name} is not installed", allow_module_level=True)


def need_now(*modules: str) -> None:
    """The same, inside one test."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("REQUIRE_SERVICES"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


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
        for body in RowsEncoder(kind, rows, common, store_text=False).encode():
            self.events.append(("rollout", kind.codec.decode(body)))

    def declare_lost(self, kind: str, count: int, /) -> None:
        self.undecodable += [kind] * count

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
        tokenizer_object=raw, pad_token=SPECIAL[0], eos_token=SPECIAL[1], chat_template=TEMPLATE
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
        "max_grad_norm": 0.25,
        "save_strategy": "no",
        "per_device_train_batch_size": 2,
        "max_steps": 4,
    }
    if "RANK" in os.environ:
        found |= {"ddp_backend": "gloo", "ddp_find_unused_parameters": False}
    return found | more


def count_letters(completions: Sequence[str], **kwargs: Any) -> list[float]:
    return [float(len(one)) for one in completions]


def share_of_vowels(
    prompts: Sequence[str], completions: Sequence[str], annotation_id: Sequence[str], **kwargs: Any
) -> list[float | None]:
    """Gets the id column of the data set, as without us, and has no opinion on the first row."""
    assert len(annotation_id) == len(prompts) == len(completions)
    return [None if at == 0 else sum(c in "aeiou" for c in one) / 10 for at, one in enumerate(completions)]


REWARDS: list[Callable[..., Any]] = [count_letters, share_of_vowels]


def make_trainer(name: str, folder: Path, callback: Any = None, *, wrap: Any = None, **more: Any) -> Any:
    """A trainer of TRL on the model in ``folder``; ``wrap`` makes its class."""
    import trl

    cls = getattr(trl, f"{name.upper()}Trainer")
    config = getattr(trl, f"{name.upper()}Config")
    data = {"dpo": pairs, "sft": texts, "grpo": prompts, "rloo": prompts}[name](16)
    extra: dict[str, Any] = {}
    if name in ("grpo", "rloo"):
        more = {"num_generations": 4, "per_device_train_batch_size": 4, "max_completion_length": 8, "beta": 0.04} | more
        extra["reward_funcs"] = REWARDS if callback is None else callback.rewards(*REWARDS)
    model, words = load(folder)
    return (cls if wrap is None else wrap(cls))(
        model,
        args=config(**settings(folder.parent / "out", **more)),
        train_dataset=data,
        processing_class=words,
        callbacks=[] if callback is None else [callback],
        **extra,
    )


def numbers_of(trainer: Any) -> list[dict[str, float]]:
    """Everything a training logged that does not measure time, bit for bit."""
    timing = ("runtime", "per_second", "step_time")
    return [
        {key: value for key, value in line.items() if not any(word in key for word in timing)}
        for line in trainer.state.log_history
    ]


def weights_of(trainer: Any) -> dict[str, bytes]:
    return {name: one.detach().numpy().tobytes() for name, one in trainer.model.named_parameters()}
