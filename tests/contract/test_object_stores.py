"""The laws of an object store, held against every implementation, a real S3 server included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore.store
import pytest

from contract.versitygw import Gateway, running_gateway
from rlhf_audit_schemas.errors import ConfigError, TamperError, TransportError
from rlhf_audit_stores.objects import (
    AlreadyStoredError,
    BadNameError,
    FolderStore,
    MemoryStore,
    NotStoredError,
    ObjectInfo,
    ObjectStore,
    ObstoreStore,
    SwapLostError,
    Version,
    open_store,
)

RACERS = 16
BAD_NAMES = [
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "a/./b",
    ".tmp-1",
    "a/.tmp-1",
    "a b",
    "a\nb",
    "ä",
    "a\\b",
    "a%2fb",
]


def race(act: Callable[[int], object]) -> list[object]:
    """Results of ``act(0..15)``, all started at once; an AlreadyStoredError or SwapLostError is a result."""
    start = threading.Barrier(RACERS)

    def run(number: int) -> object:
        start.wait()
        try:
            return act(number)
        except (AlreadyStoredError, SwapLostError) as error:
            return error

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


class ReadingAndPutting:
    """What also a store without compare-and-swap can do."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise NotImplementedError

    def test_what_was_put_is_got(self, store: ObjectStore) -> None:
        store.put("a/b/object.avro", b"data")
        assert store.get("a/b/object.avro") == b"data"
        assert store.exists("a/b/object.avro")

    def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert list(store.list("")) == [ObjectInfo("empty", 0)]

    def test_a_large_object_comes_back_whole(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 40_000
        store.put("large", data)
        assert store.get("large") == data

    def test_the_same_bytes_again_are_a_no_op(self, store: ObjectStore) -> None:
        store.put("object", b"data")
        store.put("object", b"data")
        store.put_many([("object", b"data"), ("object", b"data")])
        assert store.get("object") == b"data"

    def test_other_bytes_under_a_name_are_a_fork_alarm(self, store: ObjectStore) -> None:
        store.put("object", b"data")
        for put in (store.put, lambda name, data: store.put_many([(name, data)])):
            with pytest.raises(AlreadyStoredError, match="object") as caught:
                put("object", b"other")
            assert isinstance(caught.value, TamperError)
        assert store.get("object") == b"data"

    def test_a_batch_is_stored_and_a_fork_in_it_is_seen(self, store: ObjectStore) -> None:
        store.put_many((f"many/{number}", b"%d" % number) for number in range(20))
        assert [store.get(f"many/{number}") for number in range(20)] == [b"%d" % number for number in range(20)]
        with pytest.raises(AlreadyStoredError):
            store.put_many([("many/20", b"new"), ("many/3", b"forged")])
        with pytest.raises(AlreadyStoredError):
            store.put_many([("twice", b"one"), ("twice", b"two")])
        assert store.get("many/3") == b"3"

    def test_what_is_not_there_is_not_stored(self, store: ObjectStore) -> None:
        store.put("a/b", b"data")
        for name in ("nothing", "a", "a/bc"):
            assert not store.exists(name)
            with pytest.raises(NotStoredError, match=name):
                store.get(name)
            with pytest.raises(NotStoredError, match=name):
                store.get_versioned(name)

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_a_name_that_not_every_store_takes_is_refused(self, store: ObjectStore, name: str) -> None:
        for act in (
            lambda: store.put(name, b"data"),
            lambda: store.put_many([(name, b"data")]),
            lambda: store.get(name),
            lambda: store.get_versioned(name),
            lambda: store.exists(name),
            lambda: store.swap(name, b"data", None),
            lambda: store.delete(name),
            lambda: store.delete_many([name]),
        ):
            with pytest.raises(BadNameError):
                act()

    def test_deleted_objects_are_gone_and_missing_ones_do_no_harm(self, store: ObjectStore) -> None:
        store.put_many([("a/1", b"1"), ("a/2", b"2"), ("a/3", b"3"), ("b", b"4")])
        store.delete("a/1")
        store.delete("a/1")
        store.delete("never/there")
        store.delete_many(["a/2", "missing", "a/3"])
        store.delete_many([])
        assert not store.exists("a/2")
        with pytest.raises(NotStoredError):
            store.get("a/3")
        assert store.get("b") == b"4"
        store.put("a/1", b"other")
        assert store.get("a/1") == b"other"

    def test_of_sixteen_racing_writers_one_wins(self, store: ObjectStore) -> None:
        results = race(lambda number: store.put("a/new/folder/object", b"writer %d" % number))
        winners = [number for number, result in enumerate(results) if result is None]
        assert len(winners) == 1
        assert sum(isinstance(result, AlreadyStoredError) for result in results) == RACERS - 1
        assert store.get("a/new/folder/object") == b"writer %d" % winners[0]

    def test_sixteen_racing_writers_of_the_same_bytes_all_succeed(self, store: ObjectStore) -> None:
        assert race(lambda number: store.put("object", b"data")) == [None] * RACERS


class ObjectStoreContract(ReadingAndPutting):
    """The whole Protocol."""

    def test_nothing_is_stored_below_an_object(self, store: ObjectStore) -> None:
        store.put("a/b", b"data")
        assert not store.exists("a/b/c")
        with pytest.raises(NotStoredError):
            store.get("a/b/c")
        store.delete("a/b/c")
        assert store.get("a/b") == b"data"

    def test_a_listing_is_sorted_by_whole_names_and_holds_sizes(self, store: ObjectStore) -> None:
        names = ["a.x", "a/b", "a/b.y/c", "a/b0", "a-", "a0/b", "a/B", "b/000.p/1", "b/000.p/12", "b/000", "c"]
        for size, name in enumerate(names):
            store.put(name, bytes(size))
        assert list(store.list("")) == [ObjectInfo(name, names.index(name)) for name in sorted(names)]

    def test_a_listing_of_a_folder_holds_only_what_is_below_it(self, store: ObjectStore) -> None:
        store.put_many([("a/1", b""), ("a/b/2", b""), ("ab/3", b""), ("a.4", b"")])
        assert [info.name for info in store.list("a/")] == ["a/1", "a/b/2"]
        assert list(store.list("a/b/c/")) == []
        assert list(store.list("nothing/")) == []

    @pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", ".tmp-x/"])
    def test_a_prefix_that_is_no_folder_is_refused(self, store: ObjectStore, prefix: str) -> None:
        with pytest.raises(BadNameError):
            list(store.list(prefix))

    def test_a_checkpoint_is_replaced_by_who_knows_what_stands_there(self, store: ObjectStore) -> None:
        first = store.swap("log/checkpoint", b"size 1", None)
        assert store.get_versioned("log/checkpoint") == (b"size 1", first)
        second = store.swap("log/checkpoint", b"size 2", first)
        assert store.get_versioned("log/checkpoint") == (b"size 2", second)
        assert store.swap("log/checkpoint", b"size 3", store.get_versioned("log/checkpoint")[1]) not in (first, second)

    def test_a_swap_on_an_old_expectation_is_lost(self, store: ObjectStore) -> None:
        first = store.swap("checkpoint", b"size 1", None)
        store.swap("checkpoint", b"size 2", first)
        for expected in (None, first):
            with pytest.raises(SwapLostError, match="checkpoint"):
                store.swap("checkpoint", b"size 3", expected)
        with pytest.raises(SwapLostError, match="missing"):
            store.swap("missing", b"size 1", first)
        assert store.get("checkpoint") == b"size 2"
        assert not store.exists("missing")

    def test_identical_bytes_are_no_swap(self, store: ObjectStore) -> None:
        version = store.swap("checkpoint", b"size 1", None)
        with pytest.raises(SwapLostError, match="exactly these contents"):
            store.swap("checkpoint", b"size 1", version)

    @pytest.mark.parametrize("exists", [False, True])
    def test_of_sixteen_racing_swaps_one_wins(self, store: ObjectStore, exists: bool) -> None:
        expected: Version | None = store.swap("log/checkpoint", b"size 0", None) if exists else None
        results = race(lambda number: store.swap("log/checkpoint", b"writer %d" % number, expected))
        winners = [number for number, result in enumerate(results) if isinstance(result, Version)]
        assert len(winners) == 1
        assert sum(isinstance(result, SwapLostError) for result in results) == RACERS - 1
        assert store.get_versioned("log/checkpoint") == (b"writer %d" % winners[0], results[winners[0]])


class TestMemoryStore(ObjectStoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()


class TestFolderStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return FolderStore(tmp_path / "deep" / "objects")


class TestObstoreInMemory(ObjectStoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return ObstoreStore(obstore.store.MemoryStore())


class TestObstoreInAFolder(ReadingAndPutting):
    """Never used for evidence: it syncs nothing and cannot swap, and it says so."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return ObstoreStore(obstore.store.LocalStore(tmp_path))

    def test_a_swap_is_refused_as_a_matter_of_set_up(self, store: ObjectStore) -> None:
        version = store.swap("checkpoint", b"size 1", None)
        with pytest.raises(ConfigError, match="no conditional put"):
            store.swap("checkpoint", b"size 2", version)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(tmp_path_factory.mktemp("versitygw")) as running:
        yield running


@pytest.fixture
def bucket(gateway: Gateway, request: pytest.FixtureRequest) -> obstore.store.S3Store:
    return gateway.bucket(f"bucket-{abs(hash(request.node.nodeid)):x}")


@pytest.mark.service
class TestS3(ObjectStoreContract):
    @pytest.fixture
    def store(self, bucket: obstore.store.S3Store) -> ObjectStore:
        return ObstoreStore(bucket)

    def test_more_objects_than_one_page_are_listed_and_deleted(self, store: ObjectStore) -> None:
        names = [f"tile/{number:05d}" for number in range(1005)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: store.put(name, b"x"), names))
        assert [info.name for info in store.list("tile/")] == names
        store.delete_many(names)
        assert list(store.list("")) == []

    def test_wrong_credentials_are_a_matter_of_set_up(self, gateway: Gateway, store: ObjectStore) -> None:
        store.put("object", b"data")
        stranger = obstore.store.S3Store(
            "bucket",
            endpoint=gateway.endpoint,
            access_key_id="rlhf-audit-test",
            secret_access_key="wrong",  # noqa: S106 - wrong on purpose
            region="us-east-1",
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )
        with pytest.raises(ConfigError, match="refuses these credentials"):
            ObstoreStore(stranger).get("object")


@pytest.mark.service
def test_a_bucket_named_by_url_takes_its_keys_from_the_environment(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gateway.bucket("by-url")
    for name, value in gateway.environment().items():
        monkeypatch.setenv(name, value)
    store = open_store(tmp_path, "s3://by-url/trail")
    with pytest.raises(TransportError):
        store.exists("object")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    store = open_store(tmp_path, "s3://by-url/trail")
    store.put("object", b"data")
    assert store.get("object") == b"data"
    assert ObstoreStore(gateway.bucket("by-url")).get("trail/object") == b"data"


def test_a_server_that_does_not_answer_may_answer_later() -> None:
    nobody = obstore.store.S3Store(
        "bucket",
        endpoint="http://127.0.0.1:1",
        access_key_id="a",
        secret_access_key="b",  # noqa: S106 - nobody is asked for it
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    with pytest.raises(TransportError, match="did not answer") as caught:
        ObstoreStore(nobody).get("object")
    assert caught.value.retriable
