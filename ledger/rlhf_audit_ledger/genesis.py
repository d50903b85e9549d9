"""The genesis: everything that shapes a ledger's output, signed once (``docs/format.md`` section 1).

What stands here cannot be a setting: two workers with different settings
would disagree on bytes. The genesis and its signature are leaves 0 and 1 of
the global log and are published before anything else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rlhf_audit_ledger.domain import domain, sha256
from rlhf_audit_ledger.ed25519 import SignatureError, Signer, check_public_key, verify
from rlhf_audit_ledger.ids import LedgerId
from rlhf_audit_schemas.codec import StrictCodec
from rlhf_audit_schemas.errors import FormatError
from rlhf_audit_schemas.kinds import STREAM_NUMBERS

FORMAT = 1
MAX_GENESIS_BYTES = 60_000  # one entry of a tlog-tiles bundle holds at most 65,535 bytes
MAX_PARTITIONS = 1024  # each is a log of its own that every verifier has to look for
DEFAULT_PARTITIONS = {"annotations": 4, "gradients": 4, "lifecycle": 1, "released": 4}
MAX_WINDOW_ENTRIES = 65_536
MAX_WINDOW_MESSAGES = 4_096
MODES = ("off", "minimal", "moderate", "strong")
ROLES = ("ticker", "operator", "enrolment", "privacy_officer", "cosigner")

_CODEC = StrictCodec("envelope/genesis.avsc")
_LOG_NAME = re.compile(r"[a-z0-9](?:[a-z0-9./-]*[a-z0-9])?")
_GENESIS = domain("genesis")
_SIGNATURE = domain("genesis-signature")


@dataclass(frozen=True, slots=True)
class KeyRole:
    """A key and what it may sign: ticker, operator, enrolment, privacy_officer or cosigner."""

    role: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What shapes the windows of one stream. ``window_us`` is in microseconds."""

    stream: str
    partitions: int
    window_us: int
    max_entries: int = MAX_WINDOW_ENTRIES
    max_messages: int = MAX_WINDOW_MESSAGES
    mode: str = "off"


@dataclass(frozen=True, slots=True)
class SchemaEntry:
    """A pair of kind and schema version that batches may carry, with the SHA-256 of the schema file."""

    kind: int
    schema: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The ledger that this one goes on from."""

    ledger_id: bytes
    global_size: int
    global_root: bytes


@dataclass(frozen=True, slots=True)
class Genesis:
    """A decoded genesis. ``encode`` and ``decode`` are exact inverses."""

    log_name: str
    nonce: bytes
    ts_us: int
    root_key: bytes
    log_key: bytes
    signers: tuple[KeyRole, ...]
    streams: tuple[StreamSettings, ...]
    schemas: tuple[SchemaEntry, ...]
    privacy: bytes | None = None
    policy_sha256: bytes | None = None
    predecessor: Predecessor | None = None
    format: int = FORMAT

    def encode(self) -> bytes:
        """Raises FormatError if the genesis breaks a rule of the format."""
        _check(self)
        data = _CODEC.encode(asdict(self))
        if len(data) > MAX_GENESIS_BYTES:
            raise FormatError(f"genesis: {len(data)} bytes, at most {MAX_GENESIS_BYTES}")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Genesis:
        """Raises FormatError on anything ``encode`` would not make."""
        if len(data) > MAX_GENESIS_BYTES:
            raise FormatError(f"genesis: {len(data)} bytes, at most {MAX_GENESIS_BYTES}")
        raw = _CODEC.decode(data)
        predecessor = raw.pop("predecessor")
        genesis = cls(
            signers=tuple(KeyRole(**signer) for signer in raw.pop("signers")),
            streams=tuple(StreamSettings(**stream) for stream in raw.pop("streams")),
            schemas=tuple(SchemaEntry(**entry) for entry in raw.pop("schemas")),
            predecessor=None if predecessor is None else Predecessor(**predecessor),
            **raw,
        )
        _check(genesis)
        return genesis

    def stream(self, name: str) -> StreamSettings:
        """Settings of a stream. Raises FormatError if the ledger has no such stream."""
        for settings in self.streams:
            if settings.stream == name:
                return settings
        raise FormatError(f"genesis: no stream {name}")

    def keys_of(self, role: str) -> tuple[bytes, ...]:
        """Public keys that hold a role."""
        return tuple(signer.public_key for signer in self.signers if signer.role == role)

    @property
    def partition_counts(self) -> Mapping[str, int]:
        """Stream -> P."""
        return {settings.stream: settings.partitions for settings in self.streams}


def genesis_digest(data: bytes) -> bytes:
    """``H(D("genesis") || genesis bytes)``."""
    return sha256(_GENESIS, data)


def ledger_id(data: bytes) -> LedgerId:
    """First 16 bytes of the genesis digest."""
    return LedgerId(genesis_digest(data)[:16])


def sign_genesis(data: bytes, root: Signer) -> bytes:
    """64-byte signature by the root key over ``D("genesis-signature") || genesis digest``."""
    return root.sign(_SIGNATURE + genesis_digest(data))


def verify_genesis(data: bytes, signature: bytes, root_key: bytes) -> None:
    """Raises SignatureError if the root key did not sign this genesis."""
    verify(root_key, _SIGNATURE + genesis_digest(data), signature)


def _check(genesis: Genesis) -> None:
    if genesis.format != FORMAT:
        raise FormatError(f"genesis: format {genesis.format}, this version reads {FORMAT}")
    if not _LOG_NAME.fullmatch(genesis.log_name) or "//" in genesis.log_name:
        raise FormatError("genesis: log name must be a schemaless URL of [a-z0-9./-]")
    try:
        for key in (genesis.root_key, genesis.log_key, *(signer.public_key for signer in genesis.signers)):
            check_public_key(key)
    except SignatureError as error:
        raise FormatError(f"genesis: {error}") from error
    if any(signer.role not in ROLES for signer in genesis.signers):
        raise FormatError(f"genesis: unknown role, known are {', '.join(ROLES)}")
    names = [settings.stream for settings in genesis.streams]
    if len(set(names)) != len(names) or any(name not in STREAM_NUMBERS for name in names) or not names:
        raise FormatError(f"genesis: streams must be some of {', '.join(STREAM_NUMBERS)}, each once")
    for settings in genesis.streams:
        if not 1 <= settings.partitions <= MAX_PARTITIONS:
            raise FormatError(f"genesis: {settings.stream} has {settings.partitions} partitions, 1 to {MAX_PARTITIONS}")
        if settings.window_us < 1 or settings.mode not in MODES:
            raise FormatError(f"genesis: {settings.stream} has a window length below 1 us or an unknown mode")
        if not (1 <= settings.max_entries <= MAX_WINDOW_ENTRIES and 1 <= settings.max_messages <= MAX_WINDOW_MESSAGES):
            raise FormatError(f"genesis: {settings.stream} has a window cap beyond the format's")
    pairs = [(entry.kind, entry.schema) for entry in genesis.schemas]
    if len(set(pairs)) != len(pairs):
        raise FormatError("genesis: a pair of kind and schema stands twice")
    if any(not 0 <= number < 1 << 16 for pair in pairs for number in pair):
        raise FormatError("genesis: a kind or schema number does not fit 16 bits")
