"""A column of varints is the varints of its values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlhf_audit_schemas.strict_encoder import zigzag
from rlhf_audit_schemas.varints import zigzag_column

LONGS = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-300, 300))


@given(values=st.lists(LONGS, max_size=200))
def test_a_column_is_encoded_as_its_values_are(values: list[int]) -> None:
    assert zigzag_column(values) == [zigzag(value) for value in values]
