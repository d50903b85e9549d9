"""``audited(TrainerClass)``: the same trainer, which also tells which rows each step was trained on.

The data set's id column (``annotation_id``) is followed by a number per row
that travels with the batch: collators and generation keep it, and just before
the forward pass it is taken out again, so the model sees exactly what it would
have seen. Data loaders prefetch and skip; only here is known what was used.

Packing loses the rows: then lineage is declared unknown. KTO compares a row
with the completion of its neighbour in the batch, which is part of the update
and is not named.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Sequence
from typing import Any

from rlhf_audit_producers.hooks.callback import AuditCallback
from rlhf_audit_producers.hooks.training_facts import IDS_ATTRIBUTE

logger = logging.getLogger(__name__)

ROW_COLUMN = "annotation_index"
ID_COLUMN = "annotation_id"
_GENERATES = "_generate_and_score_completions"  # GRPO and RLOO: rows reach the trainer uncollated


class KeepingCollator:
    """Collates rows as ``inner`` does and keeps their numbers. Pickles, for data loader workers."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, rows: Sequence[Any]) -> Any:
        """Rows without numbers (evaluation) pass unchanged."""
        if not rows or not all(isinstance(row, dict) and ROW_COLUMN in row for row in rows):
            return self.inner(rows)
        import torch

        numbers = [row[ROW_COLUMN] for row in rows]
        batch = self.inner([{name: value for name, value in row.items() if name != ROW_COLUMN} for row in rows])
        batch[ROW_COLUMN] = torch.tensor(numbers, dtype=torch.int64)
        return batch

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while being unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)


@functools.cache
def audited(trainer_class: type, id_column: str = ID_COLUMN) -> type:
    """A subclass of ``trainer_class`` that names the rows of each step to its ``AuditCallback``."""
    base: Any = trainer_class
    generates = hasattr(trainer_class, _GENERATES)

    class Audited(base):  # type: ignore[misc] # the base is known at run time only
        data_collator: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            setattr(self, IDS_ATTRIBUTE, None)
            bound = inspect.signature(base.__init__).bind_partial(self, *args, **kwargs)
            dataset: Any = bound.arguments.get("train_dataset")
            ids = _ids(dataset, id_column)
            if ids is not None:
                bound.arguments["train_dataset"] = dataset.add_column(ROW_COLUMN, list(range(len(ids))))
            super().__init__(*bound.args[1:], **bound.kwargs)
            if ids is None:
                return
            if ROW_COLUMN not in getattr(self.train_dataset, "column_names", ()):
                logger.warning("the trainer packs or replaces rows: lineage is recorded as unknown")
                return
            setattr(self, IDS_ATTRIBUTE, ids)
            if not generates:
                self.data_collator = KeepingCollator(self.data_collator)

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            columns = self._signature_columns
            if columns is not None and ROW_COLUMN not in columns:
                columns.append(ROW_COLUMN)

        def _prepare_inputs(self, inputs: Any) -> Any:
            out = super()._prepare_inputs(inputs)
            if hasattr(out, "pop") and ROW_COLUMN in out:
                out = dict(out)
                numbers = out.pop(ROW_COLUMN)
                if self.model.training:
                    _tell(self, numbers)
            return out

    if generates:

        def generate_and_score(self: Any, rows: Any) -> Any:
            out = getattr(base, _GENERATES)(self, rows)
            if rows and ROW_COLUMN in rows[0]:
                import torch

                out[ROW_COLUMN] = torch.tensor([row[ROW_COLUMN] for row in rows], dtype=torch.int64)
            return out

        setattr(Audited, _GENERATES, generate_and_score)
    Audited.__name__ = Audited.__qualname__ = f"Audited{trainer_class.__name__}"
    Audited.__doc__ = trainer_class.__doc__
    return Audited


def _ids(dataset: Any, column: str) -> list[str] | None:
    """Ids by row, if the data set has the column and can be counted."""
    names = getattr(dataset, "column_names", None)
    if not isinstance(names, list) or column not in names or not hasattr(dataset, "add_column"):
        return None
    if not hasattr(dataset, "__len__"):
        return None
    return [str(one) for one in dataset[column]]


def _tell(trainer: Any, numbers: Any) -> None:
    """Hand the ids of these rows to every audit callback of the trainer."""
    ids = getattr(trainer, IDS_ATTRIBUTE)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, AuditCallback):
            with callback.run.guard.observing():
                callback.use_ids([ids[number] for number in numbers.reshape(-1).tolist()])
