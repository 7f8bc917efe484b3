"""The known stores, the paths a store may have, and the registry."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rtstore.errors import CallError, InvalidRequestError, UnknownStoreError
from rtstore.model.descriptors import (
    KNOWN_DESCRIPTORS,
    RESERVED_NAMES,
    Descriptor,
    Registry,
    relative_path_problem,
)
from rtstore.model.records import Criticality, Owner, RebuildStrategy
from tests.model.build import descriptor

KNOWN = """
opencode.launchState            | launch-state.json                     | readiness_blocking                     | launch        | none
opencode.sessionStore           | opencode-sessions.json                | rebuildable_from_provider              | session       | poll_opencode_provider
opencode.launchTransaction      | opencode-launch-transaction.json      | readiness_blocking                     | launch        | none
opencode.deliveryJournal        | opencode-delivery-journal.json        | rebuildable_from_canonical_destination | delivery      | verify_canonical_destinations
opencode.promptDeliveryLedger   | opencode-prompt-delivery-ledger.json  | rebuildable_from_canonical_destination | delivery      | verify_canonical_destinations
opencode.permissionRequests     | opencode-permissions.json             | rebuildable_from_provider              | permission    | poll_opencode_provider
opencode.hostLeases             | opencode-host-leases.json             | rebuildable_from_provider              | host          | poll_opencode_provider
opencode.compatibilitySnapshot  | opencode-compatibility.json           | readiness_blocking                     | compatibility | rerun_capability_discovery
opencode.runtimeRevision        | opencode-runtime-revision.json        | readiness_blocking                     | ui            | rebuild_from_launch_state
opencode.runtimeDiagnostics     | opencode-diagnostics.json             | diagnostic_only                        | diagnostics   | drop_after_quarantine
"""  # noqa: E501 (a table is read across)

# --- the known stores ---------------------------------------------------------------------------


def test_known_stores() -> None:
    """The ten known stores are exactly those of the design, in its order, at schema version 1."""
    rows = [[cell.strip() for cell in line.split("|")] for line in KNOWN.strip().splitlines()]
    assert [
        [
            known.schema_name,
            known.relative_path,
            known.criticality.value,
            known.owner,
            known.rebuild_strategy,
        ]
        for known in KNOWN_DESCRIPTORS
    ] == rows
    assert {known.schema_version for known in KNOWN_DESCRIPTORS} == {1}


def test_stores_with_a_payload() -> None:
    """The stores that the invariants look into have a payload model; the others take any JSON."""
    models = {
        known.schema_name: known.payload.__name__
        for known in KNOWN_DESCRIPTORS
        if known.payload is not None
    }
    assert models == {
        "opencode.launchState": "LaunchStateData",
        "opencode.sessionStore": "SessionStoreData",
        "opencode.launchTransaction": "LaunchTransactionData",
        "opencode.deliveryJournal": "DeliveryJournalData",
        "opencode.permissionRequests": "PermissionRequestsData",
        "opencode.compatibilitySnapshot": "CompatibilitySnapshotData",
    }


def test_owners() -> None:
    """Owners are the known stores' and `e2e`."""
    known = {item.owner for item in KNOWN_DESCRIPTORS}
    assert set(Owner) - known == {Owner.E2E}


# --- descriptors --------------------------------------------------------------------------------


def test_a_descriptor_dumps_without_its_model() -> None:
    """A dumped descriptor is plain JSON in camelCase; the Python class stays out of it."""
    assert KNOWN_DESCRIPTORS[0].model_dump(mode="json", by_alias=True) == {
        "schemaName": "opencode.launchState",
        "schemaVersion": 1,
        "relativePath": "launch-state.json",
        "criticality": "readiness_blocking",
        "owner": "launch",
        "rebuildStrategy": "none",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_name", ""),
        ("schema_name", "a b"),
        ("schema_name", ".hidden"),
        ("schema_name", "name\n"),
        ("schema_name", "n" * 201),
        ("schema_version", 0),
        ("relative_path", "../launch-state.json"),
        ("criticality", "vital"),
        ("owner", "No body"),
        ("rebuild_strategy", "hope-so"),
    ],
)
def test_a_bad_descriptor_is_refused(field: str, value: object) -> None:
    """A descriptor with a wrong value is refused, and the error names the field."""
    good = descriptor().model_dump()
    with pytest.raises(ValidationError) as caught:
        Descriptor.model_validate({**good, field: value})
    assert field in str(caught.value)


def test_a_descriptor_is_frozen() -> None:
    """Nobody changes a descriptor that others hold."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(KNOWN_DESCRIPTORS[0], "relative_path", "elsewhere.json")  # noqa: B010 (mypy sees a frozen field)


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["a", "launch-state.json", "lanes/alice/sessions.json", "..a/b..", "Zoë.json", "p" * 180],
)
def test_good_paths(path: str) -> None:
    """A plain path below the runtime directory has no problem."""
    assert relative_path_problem(path) is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "not relative"),
        ("/etc/passwd", "not relative"),
        ("C:/store.json", "not relative"),
        ("c:store.json", "not relative"),
        ("a\\b", "backslash"),
        ("a\x00b", "control character"),
        ("a\nb", "control character"),
        ("a\ud800b", "surrogate"),
        ("..", "leaves"),
        ("../a", "leaves"),
        ("a/../b", "leaves"),
        ("./a", "leaves"),
        (".", "leaves"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("quarantine/a.json", "reserved"),
        ("Quarantine/a.json", "reserved"),
        ("runtime-store.sqlite3/a.json", "reserved"),
        ("p" * 181, "180 bytes"),
        ("ë" * 91, "180 bytes"),
        ("p" * 181 + "/a", "180 bytes"),
        ("/".join(["p" * 100] * 40), "more than 4,000 bytes"),
    ],
)
def test_path_problems(path: str, problem: str) -> None:
    """Every path that is not a plain file in the runtime directory is told what is wrong."""
    found = relative_path_problem(path)
    assert found is not None
    assert problem in found


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_reserved_names(name: str) -> None:
    """The files of the store itself and the legacy ones are no store's, however spelled or deep."""
    for path in (name, name.upper(), f"lanes/{name}"):
        assert relative_path_problem(path) == "is reserved for the store itself"


# --- the registry -------------------------------------------------------------------------------


def test_registry_keeps_the_order() -> None:
    """A registry is read by name, and walked in the order of registration."""
    registry = Registry(KNOWN_DESCRIPTORS)
    assert len(registry) == 10
    assert tuple(registry) == KNOWN_DESCRIPTORS
    assert registry.names == tuple(known.schema_name for known in KNOWN_DESCRIPTORS)
    assert registry.get("opencode.hostLeases").relative_path == "opencode-host-leases.json"
    assert "opencode.hostLeases" in registry
    assert "opencode.nothing" not in registry


def test_a_runtime_adds_its_own() -> None:
    """The registry is open: a runtime's own store stands beside the known ones."""
    own = descriptor("runtime.cache", criticality=Criticality.DIAGNOSTIC_ONLY)
    assert Registry([*KNOWN_DESCRIPTORS, own]).get("runtime.cache") is own


@pytest.mark.parametrize("name", ["opencode.nothing", "", "OPENCODE.HOSTLEASES", None, ["a"]])
def test_unknown_store(name: object) -> None:
    """An unknown name is the caller's mistake: the error says what is known."""
    registry = Registry([descriptor("test.one"), descriptor("test.two")])
    with pytest.raises(UnknownStoreError, match=r"test\.one, test\.two") as caught:
        registry.get(name)  # type: ignore[arg-type]
    assert caught.value.store == name
    assert caught.value.known == ("test.one", "test.two")
    assert isinstance(caught.value, CallError)


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (("test.a", "a.json"), ("test.a", "b.json"), "registered twice"),
        (("test.a", "a.json"), ("test.b", "a.json"), "same file as test.a"),
        (("test.a", "a.json"), ("test.b", "A.JSON"), "same file as test.a"),
        (("test.a", "lane"), ("test.b", "lane/b.json"), "as a directory what test.a has"),
        (("test.a", "Lane/b.json"), ("test.b", "lane"), "as a directory what test.a has"),
    ],
)
def test_clashes(first: tuple[str, str], second: tuple[str, str], problem: str) -> None:
    """Two descriptors that share a name or a place on disk are refused, also where case is lost."""
    pair = [descriptor(name, path=path) for name, path in (first, second)]
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        Registry(pair)
    assert caught.value.field == "descriptors"
    assert caught.value.store == second[0]


def test_neighbours_do_not_clash() -> None:
    """A shared beginning of two names is no shared place."""
    pair = [descriptor("test.a", path="lane"), descriptor("test.b", path="lane-b/x.json")]
    assert len(Registry(pair)) == 2


def test_strategies_of_the_known_stores() -> None:
    """Every rebuild strategy is used by a known store, so none is there without a reason."""
    assert {known.rebuild_strategy for known in KNOWN_DESCRIPTORS} == set(RebuildStrategy)
