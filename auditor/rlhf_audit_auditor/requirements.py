"""``--require``: what a pass must also mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from rlhf_audit_schemas.errors import ConfigError

_AGE = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is asked for beyond agreement; ``fresh_us`` None: any age will do."""

    complete: bool = False
    payload: bool = False
    witnessed: bool = False
    fresh_us: int | None = None


def parse_requirements(text: str) -> Requirements:
    """Read ``complete,payload,witnessed,fresh=1h``, in any order. Raises ConfigError on anything else."""
    required = Requirements()
    for word in filter(None, text.split(",")):
        name, separator, value = word.partition("=")
        if name in ("complete", "payload", "witnessed") and not separator:
            required = replace(required, **{name: True})
        elif name == "fresh" and (match := _AGE.fullmatch(value)):
            required = replace(required, fresh_us=int(match[1]) * _UNITS_S[match[2]] * 1_000_000)
        else:
            raise ConfigError(f"--require: {word!r} is none of complete, payload, witnessed, fresh=AGE (30s, 10m, 1h)")
    return required
