"""Heat map of gradients by layer and step, from ``gradient_stats``.

1. Each tensor belongs to a layer, as the run's tensor table says.
2. A replicated tensor is taken from the lowest rank; the parts of a sharded one are added up over ranks.
3. A layer's squared norm is the sum over its tensors, its max-abs the largest of them.
4. Of several steps or layers in one cell the largest is shown: a spike stays visible however long the run.

Values are as measured: after clipping, where the trainer clips.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy

from rlhf_audit_auditor.report_page.asking import Asking, Row, Section, number, whole
from rlhf_audit_auditor.report_page.curves import width_of
from rlhf_audit_auditor.report_page.markup import figure, join, note, plot, tag

MAX_COLUMNS, MAX_ROWS = 400, 200
_MAX_VALUES = 40_000_000  # numbers read for one map: about ten seconds on one core

_EXTENT = """
SELECT count() AS events, min(rank) AS first_rank, min(step) AS low, max(step) AS high,
  uniqExact(step) AS steps, uniqExact(rank) AS ranks, max(is_clipped) AS any_clip,
  countIf(is_clipped IS NULL) AS unknown_clip, countIf(method = 'sampled') AS sampled,
  groupUniqArray(placement) AS placements, countIf(placement != 'replicate') AS parts, max(tensor_count) AS tensors
FROM audit_restricted.gradient_stats WHERE run_id = unhex({run:String})
"""
# Layers of all ranks, in the order of the lowest rank's tensors: a place in this list is a row of the map.
_ALL_LAYERS = """
SELECT arrayDistinct(arrayFlatten(arrayMap(
  one -> one.3, arraySort(one -> (one.1, one.2), groupArray((rank, at, layers)))
)))
FROM (
  SELECT rank, layers, min(ts) AS at FROM audit_restricted.tensor_table
  WHERE run_id = unhex({run:String}) GROUP BY rank, layers
)
"""
_LAYERS = f"SELECT ({_ALL_LAYERS}) AS layers"
_CELLS = f"""
WITH ({_ALL_LAYERS}) AS all_layers
SELECT place, row, max(sqrt(square)) AS norm, max(largest) AS max_abs, max(is_broken) AS broken FROM (
  SELECT intDiv(step - {{low:Int64}}, {{width:Int64}}) AS place, row, sum(square) AS square,
    max(largest) AS largest, max(is_broken) AS is_broken
  FROM (
    SELECT step, rank, layer, intDiv(layer - 1, {{height:UInt32}}) AS row, max(square) AS square,
      max(largest) AS largest, max(is_broken) AS is_broken
    FROM (
      SELECT step, rank, seq, epoch, layer,
        sum(if(isFinite(one_square), one_square, 0)) AS square, max(if(isFinite(one_max), one_max, 0)) AS largest,
        max(one_broken > 0 OR NOT isFinite(one_square)) AS is_broken
      FROM (
        SELECT s.step AS step, s.rank AS rank, s.seq AS seq, s.epoch AS epoch, t.layer_numbers AS layer_numbers,
          t.placements AS placements, s.squared_norm AS squares, s.max_abs AS maxima, s.non_finite AS broken
        FROM audit_restricted.gradient_stats AS s
        INNER JOIN (
          SELECT rank, table_sha256, any(placements) AS placements,
            arrayMap(layer -> indexOf(all_layers, layer), any(layers)) AS layer_numbers
          FROM audit_restricted.tensor_table WHERE run_id = unhex({{run:String}}) GROUP BY rank, table_sha256
        ) AS t ON s.rank = t.rank AND s.table_sha256 = t.table_sha256
        WHERE s.run_id = unhex({{run:String}}) AND (s.placement != 'replicate' OR s.rank = {{rank:Int32}})
          AND (step - {{low:Int64}}) % {{stride:Int64}} = 0
      )
      ARRAY JOIN layer_numbers AS layer, placements AS placement, squares AS one_square, maxima AS one_max,
        broken AS one_broken
      WHERE placement = 'shard' OR rank = {{rank:Int32}}
      GROUP BY step, rank, epoch, seq, layer
    )
    GROUP BY step, rank, layer
  )
  GROUP BY place, step, layer, row
)
GROUP BY place, row ORDER BY place, row
"""  # noqa: S608 - constants of this module


def gradients_section(asking: Asking) -> Section:
    """The heat map, if gradients were recorded."""
    extent = asking.row(_EXTENT)
    if not whole(extent.get("events")):
        return Section("gradients", "Gradients", note("No gradient statistics are recorded."))
    layers = [str(layer) for layer in asking.row(_LAYERS).get("layers") or ()]
    if not layers:
        return Section("gradients", "Gradients", note("The table that names the tensors is missing.", "bad"))
    low, high = whole(extent["low"]), whole(extent["high"])
    stride = max(1, -(-(whole(extent["parts"]) + whole(extent["steps"])) * whole(extent["tensors"]) // _MAX_VALUES))
    width, height = max(stride, width_of(low, high, MAX_COLUMNS)), width_of(1, len(layers), MAX_ROWS)
    first_rank = whole(extent["first_rank"])
    cells = asking.rows(_CELLS, low=low, width=width, height=height, stride=stride, rank=first_rank)
    names = [_group_name(layers[at : at + height]) for at in range(0, len(layers), height)]
    columns = (high - low) // width + 1
    spec = {
        "kind": "heat",
        "rows": names,
        "row": "layer",
        "x": {"kind": "step", "first": low, "width": width, "last": high, "count": columns},
        "measures": [
            {"label": "norm", "data": packed(_grid(cells, "norm", len(names), columns))},
            {"label": "max-abs", "data": packed(_grid(cells, "max_abs", len(names), columns))},
        ],
    }
    broken = sum(1 for row in cells if row["broken"])
    parts = [tag("p", _summary(extent, len(layers), width, height))]
    if stride > 1:
        parts.append(note(f"The run is long: every {stride:,}th step is looked at."))
    if broken:
        parts.append(note(f"Gradients that are not finite in {broken:,} cells, shown in red.", "bad"))
    parts.append(plot("gradients", "Gradient by layer and step"))
    return Section("gradients", "Gradients", join(parts), {"gradients": spec})


def _grid(cells: Sequence[Row], column: str, rows: int, columns: int) -> numpy.ndarray[Any, Any]:
    """Row after row; NaN where nothing is recorded, infinite where a gradient was not finite."""
    grid = numpy.full((rows, columns), numpy.nan, dtype="<f4")
    for cell in cells:
        value = number(cell[column])
        grid[whole(cell["row"]), whole(cell["place"])] = numpy.inf if cell["broken"] or value is None else value
    return grid


def packed(grid: numpy.ndarray[Any, Any]) -> str:
    """float32, little-endian, row after row, base64."""
    return base64.b64encode(grid.astype("<f4").tobytes()).decode("ascii")


def _group_name(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"


def _summary(extent: Row, layers: int, width: int, height: int) -> str:
    text = f"{whole(extent['tensors']):,} tensors in {layers:,} layers, {figure(whole(extent['steps']))} steps, "
    text += f"{whole(extent['ranks']):,} ranks. Values are as the optimizer used them"
    unknown = whole(extent["unknown_clip"])
    if unknown == whole(extent["events"]):
        text += "; whether they were clipped is not known."
    else:
        text += ", after clipping" if extent["any_clip"] else ", not clipped"
        text += "; of some it is not known whether they were." if unknown else "."
    if whole(extent["sampled"]):
        text += " Some max-abs are of a sample of elements, so lower bounds."
    if "shard" in extent["placements"] or "mixed" in extent["placements"]:
        text += " Parts of sharded tensors are added up over the ranks."
    if width > 1 or height > 1:
        text += f" A cell is the largest of {width:,} steps" + (f" and {height:,} layers." if height > 1 else ".")
    return text
