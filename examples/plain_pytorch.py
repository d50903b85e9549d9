"""A plain PyTorch loop, recorded: a reward model learns from pairs. Needs torch and nothing else beside us.

    python examples/plain_pytorch.py OUT

Then: rlhf-audit verify OUT/audit
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from rlhf_audit_trail import AuditTrail, watch  # ours

STEPS, PAIRS, FEATURES = 20, 16, 8


def main(out: Path) -> None:
    torch.manual_seed(0)
    better, worse = torch.randn(PAIRS, FEATURES) + 0.3, torch.randn(PAIRS, FEATURES)
    model = torch.nn.Sequential(torch.nn.Linear(FEATURES, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with AuditTrail(out / "audit") as trail, watch(model, optimizer, trail) as watcher:  # ours
        for _ in range(STEPS):
            optimizer.zero_grad()
            margin = (model(better) - model(worse)).squeeze(-1)
            loss = -torch.nn.functional.logsigmoid(margin).mean()
            loss.backward()
            watcher.clip_grad_norm_(1.0)  # instead of torch.nn.utils.clip_grad_norm_: the factor is recorded
            optimizer.step()
            watcher.log(loss=loss.item(), reward_accuracy=(margin > 0).float().mean().item())
        weights = out / "weights"
        weights.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), weights / "model.pt")
        watcher.record_checkpoint(weights)
        print(f"recorded as run {trail.run_id} in {out / 'audit'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "plain-example"))
