"""A network namespace for each broker, joined by a bridge, so that one of them can be cut off without dying.

::

    root namespace: clients ── bridge 198.18.N.1 ─┬─ veth 1 ── namespace 1: 198.18.N.11
                                                  ├─ veth 2 ── namespace 2: 198.18.N.12
                                                  └─ veth 3 ── ...

The addresses are of the range that is reserved for tests of networks (RFC 2544). Neighbours are written down for
good, so that nobody asks for them: a node that is cut off says nothing at all, and no error tells of it, as behind a
router. A dead process is another thing: its kernel answers with a reset.

Needs root, ``ip`` and a kernel that lets us. Everything made here carries one prefix of its own and is removed by
name.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class NotAllowedError(Exception):
    """No namespaces here, and why."""


class Namespaces:
    """A context manager: there inside the block, removed after it. Numbers of nodes count from 1."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._net = secrets.randbelow(256)
        self._prefix = f"rat{secrets.token_hex(3)}"
        self._bridge = f"{self._prefix}-br"

    def __enter__(self) -> Namespaces:
        try:
            self._make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def hosts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Address and command prefix of each node, as ``KafkaCluster`` takes them."""
        return [(self._address(node), ("ip", "netns", "exec", self._name(node))) for node in self._nodes]

    def cut(self, node: int) -> None:
        """From now on the node hears nobody and nobody hears it."""
        _ip("link", "set", self._veth(node), "down")

    def heal(self, node: int) -> None:
        """Join it again."""
        _ip("link", "set", self._veth(node), "up")

    def remove(self) -> None:
        """Take away what is there of ours; what a namespace holds goes with it."""
        for node in self._nodes:
            _ip("link", "del", self._veth(node), check=False)
            _ip("netns", "del", self._name(node), check=False)
        _ip("link", "del", self._bridge, check=False)

    @property
    def _nodes(self) -> range:
        return range(1, self._count + 1)

    def _name(self, node: int) -> str:
        return f"{self._prefix}-{node}"

    def _veth(self, node: int) -> str:
        return f"{self._prefix}-v{node}"

    def _address(self, node: int) -> str:
        return f"198.18.{self._net}.{10 + node if node else 1}"

    def _mac(self, node: int) -> str:
        return f"02:c6:12:{self._net:02x}:00:{node:02x}"

    def _make(self) -> None:
        if shutil.which("ip") is None:
            raise NotAllowedError("no ip command")
        _ip("link", "add", self._bridge, "address", self._mac(0), "type", "bridge")
        _ip("addr", "add", f"{self._address(0)}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for node in self._nodes:
            inside = ("-n", self._name(node))
            _ip("netns", "add", self._name(node))
            _ip("link", "add", self._veth(node), "type", "veth", "peer", "name", "eth0", "netns", self._name(node))
            _ip("link", "set", self._veth(node), "master", self._bridge, "up")
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", "eth0", "address", self._mac(node), "up")
            _ip(*inside, "addr", "add", f"{self._address(node)}/24", "dev", "eth0")
            self._know(self._bridge, node)
            for other in (0, *self._nodes):
                if other != node:
                    self._know("eth0", other, *inside)

    def _know(self, device: str, node: int, *inside: str) -> None:
        _ip(*inside, "neigh", "replace", self._address(node), "lladdr", self._mac(node), "dev", device)


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise NotAllowedError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def namespaces(count: int) -> Iterator[Namespaces]:
    """``count`` nodes that can be cut off; skips the test, aloud, where that is not allowed (in CI too)."""
    made = Namespaces(count)
    try:
        made.__enter__()
    except NotAllowedError as error:
        pytest.skip(f"NO NETWORK NAMESPACES HERE, no network is cut: {error}")
    try:
        yield made
    finally:
        made.remove()
