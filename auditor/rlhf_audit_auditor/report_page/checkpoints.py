"""Checkpoints with the digests of their files, as they were when they were written."""

from __future__ import annotations

from rlhf_audit_auditor.report_page.asking import Asking, Row, Section, text_of, whole
from rlhf_audit_auditor.report_page.markup import Html, code, counted, folded, join, note, size, tag

_MAX_CHECKPOINTS, _MAX_FILES = 60, 40

_COUNT = "SELECT count() AS events FROM audit_restricted.checkpoint WHERE run_id = unhex({run:String})"
_CHECKPOINTS = f"""
SELECT step, rank, epoch, seq, role, name, parent_run_id, parent_step, arraySlice(file_names, 1, {_MAX_FILES}) AS names,
  arraySlice(file_sizes, 1, {_MAX_FILES}) AS sizes, arraySlice(file_sha256, 1, {_MAX_FILES}) AS digests,
  length(file_names) AS files, arraySum(file_sizes) AS bytes, files_sha256, tensor_root, tensor_count, is_complete
FROM audit_restricted.checkpoint WHERE run_id = unhex({{run:String}})
ORDER BY step DESC, rank, ts LIMIT {_MAX_CHECKPOINTS}
"""  # noqa: S608 - constants of this module


def checkpoints_section(asking: Asking) -> Section:
    """Checkpoints, the newest first."""
    count = whole(asking.row(_COUNT).get("events"))
    if not count:
        return Section("checkpoints", "Checkpoints", note("No checkpoints are recorded."))
    rows = asking.rows(_CHECKPOINTS)
    parts = [tag("p", "Compare these with the files that you hold: sha256sum FILE.")]
    parts += [_checkpoint(row) for row in rows]
    if count > len(rows):
        parts.append(note(f"{count - len(rows):,} older checkpoints are not listed."))
    return Section("checkpoints", "Checkpoints", join(parts))


def _checkpoint(row: Row) -> Html:
    files, shown = whole(row["files"]), len(row["names"])
    title = f"{row['name']}: step {whole(row['step']):,}, {row['role']}, rank {row['rank']}, {counted(files, 'file')}, "
    title += size(whole(row["bytes"]))
    listed = join(
        tag("div", tag("dt", str(name)), tag("dd", size(whole(count))), tag("dd", code(str(digest))))
        for name, count, digest in zip(row["names"], row["sizes"], row["digests"], strict=True)
    )
    inside = [
        tag("p", "All files: ", code(str(row["files_sha256"]))),
        tag("p", f"Tensors ({whole(row['tensor_count']):,}): ", code(str(row["tensor_root"])))
        if text_of(row["tensor_root"])
        else Html(""),
        tag("dl", listed, class_="files"),
    ]
    if files > shown:
        inside.append(note(f"{files - shown:,} more files are not listed; the digest of all files covers them."))
    parts = [folded(title, join(inside), key=f"checkpoint-{row['rank']}-{row['epoch']}-{row['seq']}")]
    if not row["is_complete"]:
        parts.append(note(f"{row['name']}: a file vanished or changed while it was read.", "warn"))
    return join(parts)
