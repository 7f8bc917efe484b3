"""Every revision is frozen, and what is frozen is what the revision makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from rtstore.control import revisions
from rtstore.control.schema import REVISIONS
from tests.support import CHECKOUT
from tests.upgrade.freeze import ARCHIVE, FACTS, FIXTURES, facts_of, folder_of, schema_of


def test_every_revision_is_frozen() -> None:
    """Each revision has its frozen directory and its facts, and there are no others."""
    missing = [revision for revision in REVISIONS if not (folder_of(revision) / ARCHIVE).is_file()]
    assert missing == [], "run: python -m tests.upgrade.freeze"
    folders = {folder.name for folder in FIXTURES.iterdir()}
    assert folders == {revision.split("_", 1)[0] for revision in REVISIONS}
    assert all((folder_of(revision) / FACTS).is_file() for revision in REVISIONS)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_is_what_it_was_when_it_was_frozen(revision: str, tmp_path: Path) -> None:
    """The text of the schema that the revisions make up to this one is the frozen text, comments,
    CHECKs and views included: a revision that has shipped is never edited."""
    path = tmp_path / "made.sqlite3"
    engine = create_engine(f"sqlite+pysqlite:///{path}", poolclass=NullPool)
    config = Config()
    config.set_main_option("script_location", str(revisions.migrations_path()))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    facts = facts_of(revision)
    assert facts["revision"] == revision
    assert schema_of(path) == facts["schema"], (
        "not shipped yet? Run: python -m tests.upgrade.freeze --again"
    )


def test_the_frozen_life_is_rich() -> None:
    """What is frozen has rows in every table, an open and a failed batch, and a WAL."""
    for revision in REVISIONS:
        facts = facts_of(revision)
        empty = {table for table, rows in facts["rows"].items() if not rows}
        assert empty <= {"database_upgrades"}
        states = {row[2] for row in facts["rows"]["write_batches"]}
        assert states == {"committed", "failed", "preparing"}


def test_nothing_is_frozen_by_name_alone() -> None:
    """The fixtures name no machine: neither path nor user."""
    for revision in REVISIONS:
        text = (folder_of(revision) / FACTS).read_text(encoding="utf-8")
        assert not re.search(r"/(?:home|root|tmp|Users)/", text)
    assert CHECKOUT.is_dir()
