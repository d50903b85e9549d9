"""Control messages: signed words to the sealer on the source partition itself (``docs/format.md`` section 2).

Ticks are the only clock a partition has: windows close by what stands in the
log, never by a worker's clock. This module builds and opens control messages;
what they do to a partition is decided in ``reading`` and ``seal``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum

from rlhf_audit_ledger.batch import CONTROL_TYPE
from rlhf_audit_ledger.domain import domain
from rlhf_audit_ledger.ed25519 import Signer, verify
from rlhf_audit_ledger.ids import key_id
from rlhf_audit_schemas.codec import StrictCodec

MAX_CONTROL_BYTES = 4096


class ControlType(IntEnum):
    """What a control message asks for. 3 nonce is reserved."""

    TICK = 1
    SCHEMA_ADD = 2
    FORMAT_SWITCH = 4
    SOURCE_SWITCH = 5


# In a ledger that names no operator its ticker switches source and format (``reading``): whoever owns a partition.
ROLE_OF = {
    ControlType.TICK: "ticker",
    ControlType.SCHEMA_ADD: "operator",
    ControlType.FORMAT_SWITCH: "operator",
    ControlType.SOURCE_SWITCH: "operator",
}

_ENVELOPE = StrictCodec("envelope/control.avsc")
_TICK = StrictCodec("envelope/tick.avsc")
_SCHEMA_ADD = StrictCodec("envelope/schema_add.avsc")
_FORMAT_SWITCH = StrictCodec("envelope/format_switch.avsc")
_SOURCE_SWITCH = StrictCodec("envelope/source_switch.avsc")
_CONTROL = domain("control")


@dataclass(frozen=True, slots=True)
class Control:
    """A control message before its signature is checked."""

    control: int
    body: bytes
    key_id: bytes
    signature: bytes

    def encode(self) -> bytes:
        """The source value."""
        return _ENVELOPE.encode({"type": CONTROL_TYPE, **asdict(self)})

    @classmethod
    def decode(cls, value: bytes) -> Control:
        """Raises FormatError on anything ``encode`` would not make."""
        raw = _ENVELOPE.decode(value)
        return cls(raw["control"], raw["body"], raw["key_id"], raw["signature"])

    def check(self, public_key: bytes) -> None:
        """Raises SignatureError if ``public_key`` did not sign it."""
        verify(public_key, _message(self.control, self.body), self.signature)


@dataclass(frozen=True, slots=True)
class Tick:
    """Valid only with ``counter`` = last + 1; ``number`` = floor(ts_us / window length) and never falls.

    ``global_size`` and ``global_root`` are what its writer saw of the global log: they bound the time of the
    window it closes from below.
    """

    ledger_id: bytes
    source_id: bytes
    stream: str
    partition: int
    counter: int
    number: int
    ts_us: int
    flush: bool
    global_size: int
    global_root: bytes

    def encode(self) -> bytes:
        """Avro body."""
        return _TICK.encode(asdict(self))

    @classmethod
    def decode(cls, body: bytes) -> Tick:
        """Raises FormatError on anything ``encode`` would not make."""
        return cls(**_TICK.decode(body))


@dataclass(frozen=True, slots=True)
class SchemaAdd:
    """A further pair of kind and schema, in force from the next window on."""

    ledger_id: bytes
    kind: int
    schema: int
    sha256: bytes

    def encode(self) -> bytes:
        """Avro body."""
        return _SCHEMA_ADD.encode(asdict(self))

    @classmethod
    def decode(cls, body: bytes) -> SchemaAdd:
        """Raises FormatError on anything ``encode`` would not make."""
        return cls(**_SCHEMA_ADD.decode(body))


@dataclass(frozen=True, slots=True)
class FormatSwitch:
    """The last message sealed in the present format. It closes its window; behind it stands ``format``.

    Versions that do not know that format seal this message like all others and go no further.
    """

    ledger_id: bytes
    source_id: bytes
    stream: str
    partition: int
    format: int

    def encode(self) -> bytes:
        """Avro body."""
        return _FORMAT_SWITCH.encode(asdict(self))

    @classmethod
    def decode(cls, body: bytes) -> FormatSwitch:
        """Raises FormatError on anything ``encode`` would not make."""
        return cls(**_FORMAT_SWITCH.decode(body))


@dataclass(frozen=True, slots=True)
class SourceSwitch:
    """The last message of the source log ``source_id``: the partition goes on at ``next_offset`` of ``new_source_id``.

    It closes its window, so every window is of one source log, and a close says where to go on.
    """

    ledger_id: bytes
    source_id: bytes
    stream: str
    partition: int
    new_source_id: bytes
    next_offset: int

    def encode(self) -> bytes:
        """Avro body."""
        return _SOURCE_SWITCH.encode(asdict(self))

    @classmethod
    def decode(cls, body: bytes) -> SourceSwitch:
        """Raises FormatError on anything ``encode`` would not make."""
        return cls(**_SOURCE_SWITCH.decode(body))


def signed_control(control: ControlType, body: bytes, signer: Signer) -> bytes:
    """Source value of a control message: Ed25519 over ``D("control") || u8 control || body``."""
    signature = signer.sign(_message(control, body))
    return Control(int(control), body, key_id(signer.public_key), signature).encode()


def _message(control: int, body: bytes) -> bytes:
    return _CONTROL + bytes((control,)) + body
