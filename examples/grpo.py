"""GRPO with TRL and two reward functions, recorded: each completion with the reward of each function.

    python examples/grpo.py OUT

Then: rlhf-audit verify OUT/audit
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _tiny import PROMPTS, load, model_in, without_checkpointing
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rlhf_audit_trail import AuditCallback, audited  # ours


def brevity(completions: Sequence[str], **kwargs: Any) -> list[float]:
    """Shorter is better."""
    return [-len(text) / 100 for text in completions]


def variety(completions: Sequence[str], **kwargs: Any) -> list[float]:
    """Different letters are better."""
    return [len(set(text)) / 26 for text in completions]


def main(out: Path) -> None:
    model, words = load(model_in(out / "model"))
    audit = AuditCallback(out / "audit")  # ours
    trainer = audited(GRPOTrainer)(
        model,
        reward_funcs=audit.rewards(brevity, variety),  # ours: the same functions, recorded
        args=GRPOConfig(
            output_dir=str(out / "checkpoints"),
            max_steps=6,
            save_strategy="no",
            logging_steps=1,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=12,
            learning_rate=1e-3,
            report_to="none",
            use_cpu=True,
            bf16=False,
            **without_checkpointing(GRPOConfig),
            dataloader_pin_memory=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [{"annotation_id": f"prompt-{at}", "prompt": prompt} for at, prompt in enumerate(PROMPTS)]
        ),
        processing_class=words,
        callbacks=[audit],  # ours
    )
    trainer.train()
    print(f"recorded as run {audit.recording.run_id} in {out / 'audit'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "grpo-example"))
