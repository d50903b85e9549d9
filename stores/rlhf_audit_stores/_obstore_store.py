"""Objects in S3, Google Cloud Storage or Azure, through obstore.

Put is a conditional create; swap is a conditional update on the ETag. Some
servers make the ETag from the contents, so two writers of identical bytes
would both win; identical bytes are therefore refused before they are sent.

Object locks come from the bucket's default retention: obstore sends none, and
nothing here checks them. What a plain delete means in a versioned bucket (a
marker) is the operator's business, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlhf_audit_schemas.errors import ConfigError, TransportError
from rlhf_audit_stores._object_store import (
    NotStoredError,
    ObjectInfo,
    Version,
    check_name,
    check_prefix,
    lost,
    refuse_identical,
)
from rlhf_audit_stores.durable import AlreadyStoredError

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Backend

Names = list[str]  # inside the class, ``list`` is a method

_S3_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_S3_REFUSES = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "InvalidBucketName", "NoSuchBucket", "SignatureDoesNotMatch"}
)
_DELETE_AT_ONCE = 1000  # the limit of one bulk delete in S3


class ObstoreStore:
    """An object store over one of obstore's; the backend's own prefix is the root."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def put(self, name: str, data: bytes) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        check_name(name)
        with _translated(name):
            try:
                obstore.put(self._backend, name, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                if self.get(name) != data:
                    raise AlreadyStoredError(f"{name}: already stored with other contents") from error

    def put_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        for name, data in items:
            self.put(name, data)

    def get(self, name: str) -> bytes:
        return self.get_versioned(name)[0]

    def exists(self, name: str) -> bool:
        import obstore

        check_name(name)
        try:
            with _translated(name):
                obstore.head(self._backend, name)
        except NotStoredError:
            return False
        return True

    def get_versioned(self, name: str) -> tuple[bytes, Version]:
        import obstore

        check_name(name)
        with _translated(name):
            answer = obstore.get(self._backend, name)
            return bytes(answer.bytes()), Version(answer.meta["e_tag"] or "", answer.meta["version"])

    def swap(self, name: str, data: bytes, expected: Version | None) -> Version:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        check_name(name)
        mode: Any = "create"
        if expected is not None:
            try:
                current, version = self.get_versioned(name)
            except NotStoredError as error:
                raise lost(name, expected) from error
            if version.e_tag != expected.e_tag:
                raise lost(name, expected)
            if current == data:
                raise refuse_identical(name)
            mode = {"e_tag": expected.e_tag} | ({"version": expected.version} if expected.version else {})
        with _translated(name):
            try:
                answer = obstore.put(self._backend, name, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as error:
                raise lost(name, expected) from error
        return Version(answer["e_tag"] or "", answer["version"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        import obstore

        check_prefix(prefix)
        last = ""
        with _translated(prefix):
            for chunk in obstore.list(self._backend, prefix or None):
                for meta in chunk:
                    name = meta["path"]
                    if name <= last:
                        raise TransportError(f"the store lists {name!r} after {last!r}: its listings are not sorted")
                    last = name
                    yield ObjectInfo(name, meta["size"])

    def delete(self, name: str) -> None:
        self.delete_many([name])

    def delete_many(self, names: Iterable[str]) -> None:
        batch: Names = []
        for name in names:
            batch.append(check_name(name))
            if len(batch) == _DELETE_AT_ONCE:
                self._delete(batch)
                batch = []
        if batch:
            self._delete(batch)

    def _delete(self, names: Names) -> None:
        import obstore
        from obstore.exceptions import NotFoundError

        with _translated(names[0]):
            try:
                obstore.delete(self._backend, names)
            except (NotFoundError, FileNotFoundError):  # a missing one must not keep the others
                for name in names:
                    try:
                        obstore.delete(self._backend, name)
                    except (NotFoundError, FileNotFoundError):
                        continue


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """obstore's errors as ours: gone, refused by set-up (trying again cannot help), or not answered."""
    from obstore import exceptions

    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        raise NotStoredError(f"{name}: not stored") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise ConfigError(f"{name}: the object store refuses these credentials: {type(error).__name__}") from error
    except (exceptions.NotSupportedError, NotImplementedError) as error:
        raise ConfigError(f"{name}: this object store has no conditional put, which is needed") from error
    except (exceptions.BaseError, OSError) as error:
        found = _S3_CODE.search(str(error))  # of its text, the one part that holds neither keys nor contents
        code = found[1] if found else ""
        if code in _S3_REFUSES:
            raise ConfigError(f"{name}: the object store refuses this bucket or these credentials: {code}") from error
        said = code or type(error).__name__
        raise TransportError(f"{name}: the object store did not answer: {said}") from error
