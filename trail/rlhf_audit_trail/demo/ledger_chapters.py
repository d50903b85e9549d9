"""The chapters about the ledger, the same with training and without: windows, what to keep, verify, forge, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_audit_trail.demo.stage import Stage


def show_windows(stage: Stage) -> None:
    """One line per log: its windows, and the Merkle root of the last one."""
    from rlhf_audit_ledger.close import Close
    from rlhf_audit_ledger.objects import SEGMENT, parse_segment_name
    from rlhf_audit_stores.objects import FolderStore

    objects = FolderStore(stage.trail / "objects")
    logs: dict[str, list[Close]] = {}
    for info in objects.list("segments/"):
        ref = parse_segment_name(info.name)
        last = SEGMENT.decode(info.name, objects.get(info.name))[-1]
        if ref is not None and last["close"] is not None:
            logs.setdefault(f"{ref.stream}/{ref.partition}", []).append(Close.decode(last["close"]))
    rows: list[tuple[str | int, ...]] = []
    for name, closes in logs.items():
        entries = sum(close.end_index - close.first_index for close in closes)
        newest = max(closes, key=lambda close: close.window)
        rows.append((name, len(closes), sum(close.events for close in closes), entries, newest.window_root.hex()))
    stage.table(("log", "windows", "events", "entries", "root of the last window (SHA-256)"), rows)
    stage.say(f"\n{sum(map(len, logs.values())):,} windows in {len(logs)} logs, one signed checkpoint over all of them")


def keep(stage: Stage) -> None:
    """Copy the key and the checkpoint to where the trail's operator would not reach them."""
    stage.kept.mkdir()
    checkpoint = (stage.trail / "objects" / "global" / "checkpoint").read_bytes()
    vkey = (stage.trail / "keys" / "log.vkey").read_text(encoding="ascii").splitlines()[0]
    (stage.kept / "checkpoint").write_bytes(checkpoint)
    (stage.kept / "log.vkey").write_text(vkey + "\n", encoding="ascii")
    stage.console.print("\n[bold]Keep these elsewhere[/bold], where whoever runs the trail cannot reach them:\n")
    stage.say(f"verifier key   {vkey}\n")
    stage.say(checkpoint.decode("utf-8").rstrip())
    stage.say(f"\n(both were copied to {stage.kept})")


def verify(stage: Stage) -> int:
    """Verify the trail with what was kept."""
    kept = stage.kept
    return stage.run("verify", stage.trail, "--key", kept / "log.vkey", "--expect", kept / "checkpoint", *stage.flags)


def forge_and_verify_again(stage: Stage) -> None:
    """The last two chapters."""
    stage.chapter("Forge copies of it in every way we know, and verify each")
    stage.run("forge", stage.trail)
    stage.chapter("The trail itself was not touched: verify it again")
    verify(stage)
