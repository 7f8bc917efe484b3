"""Hostile names: of stores, of their files, of teams, runs and batches."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtstore import Descriptor, RunIdentity, RuntimeStore
from rtstore.errors import InvalidRequestError
from rtstore.files.durable import temporary_path
from tests.hostile.scene import Scene
from tests.support import CHECKPOINT, IDENTITY, LEASES, TEAM, open_store, plain_descriptor

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é.json") for form in ("NFC", "NFD"))

REFUSED_PATHS = [
    "", "/", "/etc/passwd", "..", "../x.json", "a/../../x.json", "a/..", ".", "./x", "a//b", "a/",
    "\\\\server\\share", "a\\..\\b", "C:/x.json", "c:x.json", "a\0b", "a\nb", "a\x1b[2Jb",
    "a\x7fb", "a\x9b2Jb", "a\u2028b", "a\ud800b", "a" * 181, "é" * 91, "x/" + "a" * 5000,
    "runtime-store.sqlite3", "Runtime-Store.SQLITE3-wal", "runtime-\u017ftore.lock", "quarantine/x",
    "QUARANTINE/x", "runtime-store.sqlite3/x", "runtime-store.sqlite3.backup", "manifest.json",
    ".runtime-store.sqlite3.new", ".runtime-store.sqlite3.new-wal",
    temporary_path(Path("launch-state.json")).name, "x/" + temporary_path(Path("y")).name,
]  # fmt: skip

ACCEPTED_PATHS = [
    "CON", "nul.json", "COM1", "aux/prn.json", "a ", "a.", " ", "-rf", "~", "~/x", "$HOME/x", "*",
    "%2e%2e/x", "a?b<c>|d", "'; DROP TABLE manifest_entries; --", "\N{PILE OF POO}.json",
    "x\u202ejson.exe", "a\u200bb", DECOMPOSED, "\u212bngstr\u00f6m", "e\u0301/\u0130.json",
    "a" * 180, "é" * 90, "a" * 180 + "/" + "b" * 180, "/".join("d" * 100 for _ in range(20)),
    "/".join("d" for _ in range(200)), "a__b/c", "...", "a/...", ".hidden/.x", "quarantine.json",
]  # fmt: skip

CLASHES = [
    ("a.json", "A.json"), (COMPOSED, DECOMPOSED), (COMPOSED.upper(), DECOMPOSED), ("a", "a/b"),
    ("a/b/c", "a/B"), ("stra\u00dfe", "STRASSE"), ("\u212b", "\u00e5"), ("x", "x"),
]  # fmt: skip

SAME_WHEN_FLAT = ("a/b.json", "a__b.json", "a_/_b.json", "a___b.json", "a_/b.json", "a/_b.json")


@pytest.mark.parametrize("path", REFUSED_PATHS, ids=ascii)
def test_refused_paths(scene: Scene, path: str) -> None:
    """A path that leaves the directory, hides something or is the store's own is refused by name,
    before anything is made."""
    scene.begin("names", ascii(path)[:60])
    with pytest.raises(InvalidRequestError, match="relative_path"):
        plain_descriptor("own.store", path)
    assert not scene.directory.exists()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("path", ACCEPTED_PATHS, ids=ascii)
def test_accepted_paths(scene: Scene, path: str) -> None:
    """Any other name is one like all others: written, quarantined, restored and taken back."""
    scene.begin("names", ascii(path)[:60])
    descriptor = plain_descriptor("own.store", path)
    _go_round(scene, [descriptor])
    assert (scene.directory / path).read_bytes().startswith(b"{")


def test_paths_too_long_for_the_system(scene: Scene) -> None:
    """A path that is longer than the system allows, once it is one below the directory, is an error
    of ours, at every call."""
    for path in ("/".join(["d" * 180] * 22), "/".join("d" * 2000)):
        scene.begin("names", f"{len(path)} bytes of path")
        descriptor = plain_descriptor("own.store", path)
        with open_store(scene.directory, descriptors=[descriptor]) as store:
            about = ["own.store", scene.directory]
            calls: dict[str, Callable[[], object]] = {
                "assess": store.assess,
                "write": lambda: _write(store, ["own.store"], 1),
                "read": lambda: store.read("own.store"),
                "adopt": lambda: store.adopt("own.store", identity=IDENTITY),
                "recover": lambda: store.recover(store.plan_recovery()),
            }
            for name, step in calls.items():
                scene.call(name, step, about)
        scene.session({"assess": lambda store: store.assess()}, [scene.directory])
        scene.remove()


@pytest.mark.parametrize("paths", CLASHES, ids=ascii)
def test_clashes(scene: Scene, paths: tuple[str, str]) -> None:
    """Two paths that some file system takes for one, or that stand in each other's way, are refused
    when they are registered; the error names a store."""
    scene.begin("names", ascii(paths))
    descriptors = [plain_descriptor(f"own.{n}", path) for n, path in enumerate(paths)]
    with pytest.raises(InvalidRequestError, match=r"own\.1"):
        RuntimeStore.open(scene.directory, team_name=TEAM, descriptors=descriptors)
    assert not scene.directory.exists()


def test_evidence_of_like_names_is_kept_apart(scene: Scene) -> None:
    """The same bytes in the files of two stores are two quarantined files, however the names of
    the files look without their slashes."""
    scene.begin("names", "paths that look alike")
    descriptors = [plain_descriptor(f"own.{n}", path) for n, path in enumerate(SAME_WHEN_FLAT)]
    _go_round(scene, descriptors)


def _go_round(scene: Scene, descriptors: list[Descriptor]) -> None:
    names = [item.schema_name for item in descriptors]
    with open_store(scene.directory, descriptors=descriptors) as store:
        _write(store, names, 1)
        for item in descriptors:
            (scene.directory / item.relative_path).write_bytes(b"an edit by hand")
        _write(store, names, 2)
        kept = store.quarantined_files()
        assert [row.schema_name for row in kept] == names
        for row in kept:
            assert (scene.directory / row.quarantine_path).read_bytes() == b"an edit by hand"
            store.restore_quarantined(row.quarantine_number)
            assert (scene.directory / row.relative_path).read_bytes() == b"an edit by hand"
    with RuntimeStore.open(scene.directory) as store:
        assert {store.read(name).data for name in names} == {2}
        assert store.assess()[0].manifest_healthy
        assert {path.name for path in scene.folder.iterdir()} == {"outside", "runtime"}


def _write(store: RuntimeStore, names: list[str], data: Any) -> None:
    store.write_batch(
        identity=IDENTITY,
        reason=CHECKPOINT,
        writes=dict.fromkeys(names, data),
        batch_id=f"batch {data}",
    )


ODD_TEXTS = [
    "", " ", "\0", "a\0b", "\ud800", "a\nb", "x" * 1_000_000, "'; DROP TABLE write_batches; --",
    "\N{PILE OF POO}", "\u202eabc", "../../x", DECOMPOSED, "%s {0} \\",
]  # fmt: skip


@pytest.mark.one_in(2)
@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text)[:20])
def test_odd_texts(scene: Scene, text: str) -> None:
    """A team, run, batch or store of any name is taken as it is, and read back so, or refused."""
    scene.begin("names", ascii(text)[:60])
    about = ["team", "identity", "batch_id", "unknown store", "run_id", "receipt_id", "data.",
             scene.directory]  # fmt: skip
    opened: list[RuntimeStore] = []
    scene.call(
        "team", lambda: opened.append(RuntimeStore.open(scene.directory, team_name=text)), about
    )
    for store in opened:
        assert store.manifest().team_name == text
        store.close()
        scene.remove()
    with RuntimeStore.open(scene.directory, team_name=TEAM) as store:
        for options in (
            {"batch_id": text}, {"snapshot": text}, {"run": text}, {"run": text, "receipts": text},
        ):  # fmt: skip
            scene.call("write", lambda options=options: _write_as(store, **options), about)  # type: ignore[misc]
        scene.call("read", lambda: store.read(text), about)
        scene.call("batch", lambda: store.batch(text), about)
        scene.call("snapshot", lambda: store.snapshot([text]), about)
        store.assess()
        for batch in store.batches():
            batch.model_dump_json(by_alias=True)


def _write_as(
    store: RuntimeStore,
    *,
    batch_id: str | None = None,
    run: str = "run-1",
    snapshot: str = "cap-1",
    receipts: str | None = None,
) -> None:
    try:
        identity = RunIdentity(run_id=run, capability_snapshot_id=snapshot)
    except InvalidRequestError:
        return
    if receipts is not None:
        store._writer._receipt_id_factory = lambda: receipts
    data = {"sessions": [receipts]}
    batch = store.write_batch(
        identity=identity, reason=CHECKPOINT, writes={LEASES: data}, batch_id=batch_id
    )
    assert store.batch(batch.batch_id) == batch
    assert batch_id in (None, batch.batch_id)
    assert store.manifest().active_identity == identity
