"""The training script of the demo: TRL's DPO as anybody would write it, and three lines that record it.

    torchrun --standalone --nproc-per-node=2 train.py --model DIR --pairs FILE --steps N --out DIR

``OwnCount`` is the script's own book-keeping, in case you do not want to believe ours: the demo compares the two.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, LlamaForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer

from rlhf_audit_trail import AuditCallback, audited  # added line 1: the import


class OwnCount(TrainerCallback):  # type: ignore[misc] # the types of transformers are not looked at here
    """What this rank did, counted without any help of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count: Counter[str] = Counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count["begun"] += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count["steps"] += 1

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count["saves"] += 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if args.process_index == 0 and logs is not None and "rewards/margins" in logs:
            margin = float(logs["rewards/margins"])
            print(f"step {state.global_step}: loss {float(logs['loss']):.4f}, margin {margin:.4f}", flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._count["ended"] += 1
        self._path.write_text(json.dumps(self._count), encoding="utf-8")


def main(args: argparse.Namespace) -> None:
    rank = os.environ.get("RANK", "0")
    pairs = [json.loads(line) for line in args.pairs.read_text(encoding="utf-8").splitlines()]
    audit = AuditCallback(args.out / "trail")  # added line 2: where the record goes
    trainer = audited(DPOTrainer)(  # audited(): each step names the pairs it was made from
        LlamaForCausalLM.from_pretrained(args.model),
        args=DPOConfig(
            output_dir=str(args.out / "checkpoints"),
            max_steps=args.steps,
            save_steps=max(args.steps // 2, 1),
            logging_steps=1,
            per_device_train_batch_size=4,
            max_length=256,
            learning_rate=2e-4,
            seed=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            **({"ddp_backend": "gloo", "ddp_find_unused_parameters": False} if "RANK" in os.environ else {}),
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        callbacks=[audit, OwnCount(args.out / f"own-count-{rank}.json")],  # added line 3: the callback
    )
    trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    main(parser.parse_args())
