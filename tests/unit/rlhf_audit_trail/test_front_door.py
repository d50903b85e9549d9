"""``import rlhf_audit_trail``: lazy, and honest about what it has."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

import rlhf_audit_trail

PROBE = """
import sys
sys.path[:0] = {path!r}
before = set(sys.modules)
import rlhf_audit_trail
print(sorted(name for name in set(sys.modules) - before if name.startswith("rlhf_audit") or name in {heavy!r}))
"""
HEAVY = {
    "rich",
    "numpy",
    "fastavro",
    "cryptography",
    "obstore",
    "faust",
    "clickhouse_connect",
    "chdb",
    "fastapi",
    "torch",
}


def test_importing_the_front_door_imports_nothing_else() -> None:
    probe = PROBE.format(path=sys.path, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "['rlhf_audit_trail']\n"


NEED_TRANSFORMERS = ("AuditCallback", "audited")


@pytest.mark.parametrize("name", rlhf_audit_trail.__all__)
def test_every_name_it_promises_is_there(name: str) -> None:
    if name in NEED_TRANSFORMERS and find_spec("transformers") is None:
        pytest.skip(f"SKIPPED ALOUD: {name} needs transformers, which is not installed")
    assert getattr(rlhf_audit_trail, name)
    assert name in dir(rlhf_audit_trail)


def test_a_name_it_does_not_have_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        rlhf_audit_trail.nonsense  # noqa: B018 - the access is what must fail
