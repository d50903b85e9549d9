"""The demo without training: judgements are sealed, verified, forged, and each forgery is caught."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_audit_trail.demo.cluster_chapters import DemoCluster
    from rlhf_audit_trail.demo.inputs import Inputs
    from rlhf_audit_trail.demo.stage import Stage


def tell(stage: Stage, inputs: Inputs, cluster: DemoCluster | None = None) -> None:
    """The whole story, on Kafka if there is a ``cluster``; stops where ingesting fails."""
    from rlhf_audit_trail.demo.ledger_chapters import forge_and_verify_again, keep, show_windows, verify

    stage.chapter("Seal human feedback")
    stage.say(inputs.words)
    for each in inputs.files:
        if stage.run("ingest", each.path, "--out", stage.trail, *each.flags, *stage.flags) != 0:
            return
    if cluster is not None:
        cluster.drain(stage)
    stage.chapter("What was sealed: windows, their Merkle roots, the checkpoint over all of them")
    show_windows(stage)
    keep(stage)
    stage.chapter("Verify it, with the two lines that were kept elsewhere")
    verify(stage)
    forge_and_verify_again(stage)
    stage.console.print("\n[bold]Try next[/bold]")
    stage.say(
        f"  rlhf-audit verify {stage.trail} --json\n  rlhf-audit ingest YOUR-FILE --out my-trail\n"
        f"  change any byte below {stage.trail / 'objects'} and verify again"
    )
