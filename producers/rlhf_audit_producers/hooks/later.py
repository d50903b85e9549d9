"""Numbers on a device, brought to main memory without a wait.

To ask a device for a number with ``item`` or ``float`` waits for everything it was given
before, and it idles until it is given more. Here the number is copied behind the work
that makes it, into pinned memory, and who reads it later waits for that work alone:
mostly for nothing, since a step lies between.

Where a device is no CUDA (or ROCm) one, the number waits there and reading it waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


class CapturedStepError(RuntimeError):
    """A step is being captured into a CUDA graph, and to touch the GPU here would break the capture.

    Hooks are called once then, while nothing is computed, and never when the graph is replayed.
    """


def is_capturing() -> bool:
    """Whether what is asked of a GPU now is only noted, into a CUDA graph."""
    import torch

    return bool(torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())


class Later:
    """The values of a tensor as they are now. ``float`` works where it is one number."""

    __slots__ = ("_event", "_values")

    def __init__(self, tensor: Any) -> None:
        import torch

        tensor = tensor.detach()
        self._event: Any = None
        if tensor.device.type != "cuda":
            self._values = tensor.clone()
            return
        if is_capturing():
            raise CapturedStepError
        with torch.cuda.device(tensor.device):
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    @property
    def is_here(self) -> bool:
        """Whether reading would not wait."""
        return self._values.device.type == "cpu" and (self._event is None or self._event.query())

    def read(self) -> npt.NDArray[Any]:
        """The values, of the same shape. Errors of the device show here."""
        self._wait()
        return np.asarray(self._values.cpu().numpy())

    def number(self, at: int) -> float:
        """One of the values of a tensor of one dimension."""
        self._wait()
        return float(self._values[at])

    def __float__(self) -> float:
        self._wait()
        return float(self._values)

    def _wait(self) -> None:
        if self._event is None:
            return
        if is_capturing():
            raise CapturedStepError
        self._event.synchronize()
        self._event = None


def later(number: Any) -> Any:
    """A number or a tensor of one, such that ``float`` gives what it is now."""
    return Later(number) if hasattr(number, "detach") else number


class _Part:
    """One number of those that came together."""

    __slots__ = ("_at", "_together")

    def __init__(self, together: Later, at: int) -> None:
        self._together, self._at = together, at

    def __float__(self) -> float:
        return self._together.number(self._at)


def all_later(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same for many: those of one type on one device are copied at once."""
    found = dict(numbers)
    alike: dict[Any, list[str]] = {}
    for name, number in numbers.items():
        if hasattr(number, "detach"):
            alike.setdefault((number.device, number.dtype), []).append(name)
    for (device, _), names in alike.items():
        if device.type == "cpu":
            found |= {name: float(found[name].detach()) for name in names}
            continue
        import torch

        together = Later(torch.stack([found[name].detach().reshape(()) for name in names]))
        found |= {name: _Part(together, at) for at, name in enumerate(names)}
    return found
