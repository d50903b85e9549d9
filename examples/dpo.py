"""DPO with TRL, recorded: the lines that are ours are marked.

    python examples/dpo.py OUT
    torchrun --nproc-per-node=2 examples/dpo.py OUT      (after the line above, which makes the model)

Then: rlhf-audit verify OUT/audit
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from _tiny import BAD, GOOD, PROMPTS, load, model_in, without_checkpointing
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from rlhf_audit_trail import AuditCallback, audited  # ours


def main(out: Path) -> None:
    model, words = load(model_in(out / "model"))
    pairs = [
        {"annotation_id": f"pair-{at}", "prompt": prompt, "chosen": good, "rejected": bad}
        for at, (prompt, good, bad) in enumerate(zip(PROMPTS, GOOD, BAD, strict=True))
    ]
    audit = AuditCallback(out / "audit")  # ours
    audit.trail.log_annotations(  # ours: the judgements themselves; every rank has the same, they are recorded once
        prompts=PROMPTS,
        chosen=GOOD,
        rejected=BAD,
        ids=[row["annotation_id"] for row in pairs],
        annotators="the-author",
    )
    trainer = audited(DPOTrainer)(  # audited(): each update names the pairs it was made from
        model,
        args=DPOConfig(
            output_dir=str(out / "checkpoints"),
            max_steps=8,
            save_steps=4,
            logging_steps=1,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            report_to="none",
            use_cpu=True,
            bf16=False,
            **without_checkpointing(DPOConfig),
            dataloader_pin_memory=False,
            disable_tqdm=True,
            **({"ddp_backend": "gloo", "ddp_find_unused_parameters": False} if "RANK" in os.environ else {}),
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=words,
        callbacks=[audit],  # ours
    )
    trainer.train()
    print(f"recorded as run {audit.recording.run_id} in {out / 'audit'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dpo-example"))
