"""Run by torchrun on each rank: trains without and with the hook, and writes down what it saw.

Arguments: model folder, output folder, what to train (dpo, sft, grpo, fsdp, or fsdp1 with or without -orig). The trail
is the real one; its spool is read back by nobody here, the events beside it are kept by ``Beside``.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training import tiny


class Beside(tiny.ListRecording):
    """Records into the real trail and keeps the same events."""

    def __init__(self, trail: Any) -> None:
        super().__init__(trail.run_id, trail.rank, trail.world_size)
        self.trail = trail

    def record(self, kind: str, fields: Mapping[str, Any], /) -> None:
        self.trail.record(kind, fields)
        super().record(kind, fields)

    def log_rollouts(self, **columns: Any) -> None:
        self.trail.log_rollouts(**columns)
        super().log_rollouts(**columns)

    def declare_lost(self, kind: str, count: int, /) -> None:
        self.trail.declare_lost(kind, count)
        super().declare_lost(kind, count)


def main() -> None:
    folder, output, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    rank = int(os.environ["RANK"])
    if name.startswith("fsdp1"):
        found = fsdp1(keeps_parameters=name.endswith("-orig"))
    else:
        found = fsdp() if name == "fsdp" else trainer(name, folder, output)
    (output / f"{name}-{rank}").write_bytes(pickle.dumps(found))


def trainer(name: str, folder: Path, output: Path) -> dict[str, Any]:
    """The same training twice, on all ranks."""
    from rlhf_audit_producers.hooks import AuditCallback, audited
    from rlhf_audit_trail.recording import AuditTrail

    more = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(output / f"{name}-out")}
    alone = tiny.make_trainer(name, folder, **more)
    alone.train()
    trail = AuditTrail(output / "trail", runtime=False)
    recording = Beside(trail)
    watched = tiny.make_trainer(name, folder, AuditCallback(recording, update_norm=True), wrap=audited, **more)
    watched.train()
    is_durable = trail.flush()
    return {
        "alone": (tiny.numbers_of(alone), tiny.weights_of(alone)),
        "watched": (tiny.numbers_of(watched), tiny.weights_of(watched)),
        "events": recording.events,
        "undecodable": recording.undecodable,
        "durable": trail.counts.recorded if is_durable and trail.counts is not None else None,
        "lost": dict(trail.counts.lost) if trail.counts is not None else None,
    }


def fsdp() -> dict[str, Any]:
    """A small model sharded over the ranks; one tensor has fewer rows than there are ranks."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from rlhf_audit_producers.hooks import watch

    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 1))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    recording = tiny.ListRecording(rank=int(os.environ["RANK"]), world_size=2)
    with watch(model, optimizer, recording, digest_model=False):
        model(torch.ones(4, 7)).pow(2).sum().backward()
        whole = [one.grad.full_tensor().double().pow(2).sum().item() for one in model.parameters()]
        optimizer.step()
    torch.distributed.destroy_process_group()
    return {"events": recording.events, "squares": whole}


def fsdp1(*, keeps_parameters: bool) -> dict[str, Any]:
    """The same with FullyShardedDataParallel, clipped; and the gradients as one process would have them."""
    import torch
    from torch.distributed.fsdp import FullyShardedDataParallel

    from rlhf_audit_producers.hooks import watch

    torch.distributed.init_process_group("gloo")
    torch.manual_seed(5)
    inner = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 1))
    inner(torch.ones(4, 7)).pow(2).sum().backward()
    whole = [one.grad.double().pow(2).sum().item() for one in inner.parameters() if one.grad is not None]
    inner.zero_grad()
    model = FullyShardedDataParallel(inner, device_id=torch.device("cpu"), use_orig_params=keeps_parameters)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    recording = tiny.ListRecording(rank=int(os.environ["RANK"]), world_size=2)
    with watch(model, optimizer, recording, digest_model=False) as watcher:
        model(torch.ones(4, 7)).pow(2).sum().backward()
        watcher.clip_grad_norm_(0.5)
        optimizer.step()
    torch.distributed.destroy_process_group()
    return {"events": recording.events, "squares": whole}


if __name__ == "__main__":
    main()
