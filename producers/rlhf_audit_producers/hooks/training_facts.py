"""The part of ``run_start`` that a transformers trainer knows.

Duck-typed: what is not there is null. ``run_facts`` has the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_audit_producers.hooks.checkpoint_worker import Role
from rlhf_audit_producers.hooks.run_facts import (
    argument_facts,
    environment_facts,
    model_facts,
    model_folder,
    model_name,
    parameters_digest,
)

IDS_ATTRIBUTE = "rlhf_audit_ids"  # set by ``audited``: the ids of the rows, by their number


def training_facts(
    args: Any, state: Any, model: Any, trainer: Any, dataloader: Any, *, digest_model: bool
) -> dict[str, Any]:
    """Everything that can be said before the first step."""
    reference = getattr(trainer, "ref_model", None)
    dataset: Any = getattr(trainer, "train_dataset", None)
    if dataset is None:
        dataset = getattr(dataloader, "dataset", None)
    loss_type = getattr(args, "loss_type", None)
    return {
        **environment_facts(),
        **(model_facts(model, digest=digest_model) if model is not None else {}),
        "trainer": None if trainer is None else type(trainer).__name__.removeprefix("Audited"),
        "algorithm": _algorithm(args, trainer),
        "objective": ",".join(map(str, loss_type)) if isinstance(loss_type, list) else loss_type,
        "reference_model_name": None if reference is None else model_name(reference),
        "reference_parameters_sha256": parameters_digest(reference) if digest_model and reference is not None else None,
        "reward_names": [str(name) for name in getattr(trainer, "reward_func_names", ())],
        "hyperparameters_json": argument_facts(args.to_dict()),
        "max_grad_norm": args.max_grad_norm or None,
        "seed": args.seed,
        "max_steps": state.max_steps,
        "per_device_batch": args.per_device_train_batch_size,
        "accumulation_steps": args.gradient_accumulation_steps,
        "dataset_rows": len(dataset) if hasattr(dataset, "__len__") else None,
        "dataset_fingerprint": getattr(dataset, "_fingerprint", None),
        "lineage": "ids" if getattr(trainer, IDS_ATTRIBUTE, None) is not None else "unknown",
    }


def beginning_folders(model: Any, trainer: Any) -> Iterator[tuple[Role, Path]]:
    """Folders of weights the training began from; one that is model and reference alike comes once."""
    initial = None if model is None else model_folder(model)
    reference = getattr(trainer, "ref_model", None)
    if initial is not None:
        yield "initial", initial
    folder = None if reference is None else model_folder(reference)
    if folder is not None and folder != initial:
        yield "reference", folder


def _algorithm(args: Any, trainer: Any) -> str | None:
    """From the names of the classes: DPOTrainer and DPOConfig say dpo."""
    names = [] if trainer is None else [type(trainer).__name__.removeprefix("Audited").removesuffix("Trainer")]
    names.append(type(args).__name__.removesuffix("Config"))
    return next((name.lower() for name in names if name and name != "TrainingArguments"), None)
