"""Tiles and entry bundles: a log as static files (C2SP tlog-tiles).

    tile/<level>/<index>[.p/<width>]     256 hashes; hash i of tile n on level l is the root
                                         over leaves [(256n + i) * 256**l, (256n + i + 1) * 256**l)
    tile/entries/<index>[.p/<width>]     256 entries, each as u16 length || bytes

An index is written in groups of three digits, all but the last with an ``x`` in
front (``x001/x234/067``). A partial object (``.p/<width>``) belongs to one log
size and may go once the full one exists. The length prefix of an entry is not
hashed. ``grow`` says what to write, as a pure function of the right edge and
the new entries, so any way of batching gives the same bytes.

Nothing here opens a file. ``fetch(path)`` returns the bytes of an object, and
None or one of ``MISSING`` where there is none; any other error passes through.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlhf_audit_ledger.merkle import EMPTY_ROOT, HASH_BYTES, CompactRange, leaf_hash, leaf_hashes, root_of
from rlhf_audit_schemas.errors import ConfigError, CouldNotCheckError, FormatError, TamperError

TILE_WIDTH = 256
TILE_HEIGHT = 8  # levels of the tree in one tile
MAX_LEVEL = 63
MAX_INDEX = 2**56 - 1  # 256 times more than this is past every 64-bit log size
MAX_ENTRY_BYTES = 65_535  # the length prefix is a u16
MISSING = (CouldNotCheckError, FileNotFoundError, LookupError)

Fetch = Callable[[str], bytes | None]

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([0-9]{1,3}))?", re.ASCII)


class TileError(TamperError):
    """A tile or bundle that the checkpoint promises is lost, or is not what the checkpoint commits to."""


@dataclass(frozen=True, slots=True)
class TileRef:
    """What a path names; ``level`` is None for an entry bundle."""

    level: int | None
    index: int
    width: int

    @property
    def path(self) -> str:
        return _path("entries" if self.level is None else str(self.level), self.index, self.width)


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Path of a hash tile, of its partial form if ``width`` is below 256."""
    if not 0 <= level <= MAX_LEVEL:
        raise ConfigError(f"tile level {level} is not in 0 to {MAX_LEVEL}")
    return _path(str(level), index, width)


def bundle_path(index: int, width: int = TILE_WIDTH) -> str:
    """Path of an entry bundle, of its partial form if ``width`` is below 256."""
    return _path("entries", index, width)


def parse_path(path: str) -> TileRef | None:
    """The tile or bundle with exactly this path; None for every other string."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    kind, groups, width = match.groups()
    ref = TileRef(
        level=None if kind == "entries" else int(kind),
        index=int(groups.replace("x", "").replace("/", "")),
        width=TILE_WIDTH if width is None else int(width),
    )
    if ref.index > MAX_INDEX or not 0 < ref.width <= TILE_WIDTH or (ref.level or 0) > MAX_LEVEL:
        return None
    return ref if ref.path == path else None


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """The bytes of a bundle; raises FormatError if an entry is longer than 65,535 bytes."""
    try:
        return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])
    except OverflowError as error:
        raise FormatError(f"an entry is longer than {MAX_ENTRY_BYTES} bytes") from error


def decode_bundle(data: bytes, count: int) -> list[bytes]:
    """Exactly ``count`` entries and nothing behind them; raises FormatError otherwise."""
    entries, at = [], 0
    for number in range(count):
        begin = at + 2
        at = begin + int.from_bytes(data[at:begin], "big")
        if at > len(data) or begin > len(data):
            raise FormatError(f"a bundle ends inside entry {number} of {count}")
        entries.append(data[begin:at])
    if at != len(data):
        raise FormatError(f"a bundle has {len(data) - at} bytes behind its {count} entries")
    return entries


@dataclass(frozen=True, slots=True)
class Edge:
    """Right edge of a log: the hashes of its partial tiles, from level 0 up, and the entries of its partial bundle."""

    size: int
    tiles: tuple[tuple[bytes, ...], ...]
    entries: tuple[bytes, ...]

    @classmethod
    def empty(cls) -> Edge:
        return cls(0, (), ())

    def compact_range(self) -> CompactRange:
        hashes: list[bytes] = []
        for tile in reversed(self.tiles):
            hashes += CompactRange().extend(tile).hashes
        return CompactRange(self.size, tuple(hashes))

    def root(self) -> bytes:
        return self.compact_range().root()


def grow(edge: Edge, entries: Sequence[bytes], leaves: Sequence[bytes]) -> tuple[Edge, dict[str, bytes], list[str]]:
    """Append entries, whose leaf hashes are ``leaves``.

    Returns the new edge; the objects to write, by path: what became full, and the partial ones of the new size as far
    as they differ from those of the old size; and the paths of what became full, beside which ``.p/`` may go.
    """
    if len(entries) != len(leaves):
        raise ConfigError(f"{len(entries)} entries cannot have {len(leaves)} leaf hashes")
    objects: dict[str, bytes] = {}
    full: list[str] = []
    first = edge.size // TILE_WIDTH
    waiting = [*edge.entries, *entries]
    done = len(waiting) // TILE_WIDTH * TILE_WIDTH
    for at in range(0, done, TILE_WIDTH):
        path = bundle_path(first + at // TILE_WIDTH)
        objects[path] = encode_bundle(waiting[at : at + TILE_WIDTH])
        full.append(path)
    rest = tuple(waiting[done:])
    if entries and rest:
        objects[bundle_path(first + done // TILE_WIDTH, len(rest))] = encode_bundle(rest)

    tiles: list[tuple[bytes, ...]] = []
    level, arrived = 0, list(leaves)
    while arrived or level < len(edge.tiles):
        old = edge.tiles[level] if level < len(edge.tiles) else ()
        first = (edge.size >> TILE_HEIGHT * level) // TILE_WIDTH
        hashes = [*old, *arrived]
        done = len(hashes) // TILE_WIDTH * TILE_WIDTH
        parents = []
        for at in range(0, done, TILE_WIDTH):
            tile = hashes[at : at + TILE_WIDTH]
            path = tile_path(level, first + at // TILE_WIDTH)
            objects[path] = b"".join(tile)
            full.append(path)
            parents.append(root_of(tile))
        partial = tuple(hashes[done:])
        if arrived and partial:
            objects[tile_path(level, first + done // TILE_WIDTH, len(partial))] = b"".join(partial)
        tiles.append(partial)
        level, arrived = level + 1, parents
    return Edge(edge.size + len(entries), tuple(tiles), rest), objects, full


def expected_objects(size: int) -> Iterator[str]:
    """Paths of all full objects and of the partial ones that a log of this size must have."""
    for index in range(size // TILE_WIDTH):
        yield bundle_path(index)
    if size % TILE_WIDTH:
        yield bundle_path(size // TILE_WIDTH, size % TILE_WIDTH)
    level, hashes = 0, size
    while hashes:
        for index in range(hashes // TILE_WIDTH):
            yield tile_path(level, index)
        if hashes % TILE_WIDTH:
            yield tile_path(level, hashes // TILE_WIDTH, hashes % TILE_WIDTH)
        level, hashes = level + 1, hashes // TILE_WIDTH


def load_edge(size: int, root: bytes, fetch: Fetch) -> Edge:
    """The edge of a stored log, checked against its root.

    Raises TileError if an object is lost, or if the objects do not hash to ``root``.
    """
    tiles: list[tuple[bytes, ...]] = []
    hashes = size
    while hashes:
        tiles.append(tuple(_read_tile(len(tiles), hashes // TILE_WIDTH, hashes % TILE_WIDTH, fetch)))
        hashes //= TILE_WIDTH
    entries = tuple(_read_bundle(size // TILE_WIDTH, size % TILE_WIDTH, fetch))
    if size and leaf_hashes(entries) != list(tiles[0]):
        raise TileError(f"the last bundle of a log of {size} entries does not hash to its tile")
    edge = Edge(size, tuple(tiles), entries)
    computed = edge.root() if size else EMPTY_ROOT
    if computed != root:
        raise TileError(f"root of {size} entries: expected {root.hex()}, computed from tiles {computed.hex()}")
    return edge


class TileReader:
    """Hashes and entries of a stored log of a known size; keeps the tiles it used last.

    It checks lengths only. What is made from it (a proof, an entry) MUST be verified against the signed root.
    """

    def __init__(self, size: int, fetch: Fetch, *, cached_tiles: int = 256) -> None:
        self._size = size
        self._fetch = fetch
        self._cached_tiles = cached_tiles
        self._tiles: OrderedDict[tuple[int | None, int], list[bytes]] = OrderedDict()

    def hash_at(self, level: int, index: int) -> bytes:
        """Root over leaves ``[index * 2**level, (index + 1) * 2**level)``; raises ConfigError past the log's end."""
        if level < 0 or not 0 <= index < self._size >> level:
            raise ConfigError(f"a log of {self._size} entries has no complete subtree {index} on level {level}")
        tile_level, height = divmod(level, TILE_HEIGHT)
        number, at = divmod(index << height, TILE_WIDTH)
        tile = self._tile(tile_level, number)
        return root_of(tile[at : at + (1 << height)])

    def entry(self, index: int) -> bytes:
        """One entry; raises ConfigError if the log does not hold it, TileError if it does not hash to its leaf."""
        if not 0 <= index < self._size:
            raise ConfigError(f"a log of {self._size} entries has no entry {index}")
        number, at = divmod(index, TILE_WIDTH)
        entry = self._tile(None, number)[at]
        if leaf_hash(entry) != self._tile(0, number)[at]:
            raise TileError(f"entry {index} does not hash to its leaf")
        return entry

    def _tile(self, level: int | None, index: int) -> list[bytes]:
        values = self._tiles.pop((level, index), None)
        if values is None:
            width = min(TILE_WIDTH, (self._size >> TILE_HEIGHT * (level or 0)) - index * TILE_WIDTH)
            if level is None:
                values = _read_bundle(index, width, self._fetch)
            else:
                values = _read_tile(level, index, width, self._fetch)
            if len(self._tiles) >= self._cached_tiles:
                self._tiles.popitem(last=False)
        self._tiles[level, index] = values
        return values


def _path(kind: str, index: int, width: int) -> str:
    if not 0 <= index <= MAX_INDEX:
        raise ConfigError(f"tile index {index} is not in 0 to {MAX_INDEX}")
    if not 0 < width <= TILE_WIDTH:
        raise ConfigError(f"tile width {width} is not in 1 to {TILE_WIDTH}")
    name = f"{index % 1000:03}"
    while index := index // 1000:
        name = f"x{index % 1000:03}/{name}"
    return f"tile/{kind}/{name}" if width == TILE_WIDTH else f"tile/{kind}/{name}.p/{width}"


def _read_tile(level: int, index: int, width: int, fetch: Fetch) -> list[bytes]:
    """The first ``width`` hashes of a tile, none fetched if that is 0."""
    if not width:
        return []
    stored, data = _read(TileRef(level, index, width), fetch)
    if len(data) != stored.width * HASH_BYTES:
        raise TileError(f"{stored.path}: {len(data)} bytes, expected {stored.width * HASH_BYTES}")
    return [data[at : at + HASH_BYTES] for at in range(0, width * HASH_BYTES, HASH_BYTES)]


def _read_bundle(index: int, width: int, fetch: Fetch) -> list[bytes]:
    if not width:
        return []
    stored, data = _read(TileRef(None, index, width), fetch)
    try:
        return decode_bundle(data, stored.width)[:width]
    except FormatError as error:
        raise TileError(f"{stored.path}: {error}") from error


def _read(wanted: TileRef, fetch: Fetch) -> tuple[TileRef, bytes]:
    """The object as wanted, else the full one that has taken its place."""
    for ref in dict.fromkeys((wanted, TileRef(wanted.level, wanted.index, TILE_WIDTH))):
        try:
            data = fetch(ref.path)
        except MISSING:
            continue
        if data is not None:
            return ref, data
    raise TileError(f"{wanted.path} is lost, and no full one is in its place")
