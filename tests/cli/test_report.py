"""`rtstore report`: one page that asks for nothing, escapes everything, and keeps secrets."""

from __future__ import annotations

import base64
import html
import json
import random
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from rtstore import DATABASE_NAME, DELETED, KEEP_EVERYTHING, RuntimeStore
from rtstore.cli.exits import ExitCode
from rtstore.cli.output import visible
from rtstore.cli.report import chart, facts
from rtstore.cli.report.changes import outline
from rtstore.cli.report.facts import Size
from rtstore.cli.report.redact import rules_of
from rtstore.files.system import FileSystem
from rtstore.model.records import Record, RunIdentity
from tests.cli.commands import crashed_team, ready_team, run
from tests.support import (
    DIAGNOSTICS,
    LAUNCH,
    LEASES,
    NOON,
    SESSIONS,
    TEAM,
    file_of,
    launch_state,
    open_store,
    picture,
    plain_descriptor,
    write,
)

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror="alert(1)">',
    "{{ 7 * 7 }}{% for x in y %}",
    "\u202egnp.exe \u2066\u200b",
    "\x1b[31m\x00\x7f\r\n\t",
    "\ud800 alone",
    "<!-- ]]> --> &amp; &#60;",
)


def page_of(directory: Path, *options: str) -> str:
    """The page of a directory."""
    result = run("report", directory, "-o", "-", *options)
    assert (result.code, result.err) == (0, "")
    return result.out


class Reader(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element."""
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_data(self, data: str) -> None:
        """Remember a text."""
        self.text.append(data)


def check(page: str) -> Reader:
    """Hold a page to what must hold for each: no script, no address, every link leads somewhere."""
    read = Reader(page)
    names = {tag for tag, _ in read.tags}
    assert names & {"script", "img", "iframe", "object", "embed", "form", "base", "audio"} == set()
    policy = dict(read.tags[3][1])
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert str(policy["content"]).startswith("default-src 'none'; style-src 'unsafe-inline'; ")
    assert len(read.ids) == len(set(read.ids))
    for tag, attributes in read.tags:
        assert not any(name.startswith("on") or name in ("src", "srcset") for name in attributes)
        address = attributes.get("href")
        if address is not None and tag != "link":
            assert address[1:] in read.ids, address
    assert [a["href"] for tag, a in read.tags if tag == "link"] == ["data:,"]
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in page.replace("http-equiv", "")
    return read


# --- what it shows --------------------------------------------------------------------------------


def test_what_is_wrong_is_on_top(tmp_path: Path) -> None:
    """Readiness, its reasons and the command that helps stand before everything else; then the open
    batch is marked; after the recovery the same batch is marked as recovered."""
    directory = crashed_team(tmp_path)
    read = check(page_of(directory))
    text = " ".join(read.text)
    place = [text.index(words) for words in ("blocked", "rtstore recover", "Time line", "Stores")]
    assert place == sorted(place)
    assert f"rtstore recover {directory}" in text
    assert any(tag == "a" and a["class"] == "m open" for tag, a in read.tags)
    run("recover", directory)
    marks = {a["class"] for tag, a in check(page_of(directory)).tags if tag == "a" and "class" in a}
    assert marks == {"m recovered"}


def test_what_a_version_changed(tmp_path: Path) -> None:
    """Each version has its values, before and after; with --changes 0 none has."""
    directory = ready_team(tmp_path)
    page = page_of(directory)
    assert "/requests/0/status" in page
    assert "<del>&#34;pending&#34;</del>" in page
    assert "<ins>&#34;answered&#34;</ins>" in page
    assert "<del>" not in page_of(directory, "--changes", "0")


def test_a_deleted_store(tmp_path: Path) -> None:
    """It is called deleted, its size goes down to nothing, and the batch that deleted it has it."""
    directory = ready_team(tmp_path)
    with RuntimeStore.open(directory) as store:
        batch = store.write_batch(
            identity=RunIdentity(run_id="run-7f3a"), reason="recovery", writes={LEASES: DELETED}
        )
    page = page_of(directory)
    (head,) = [line for line in page.splitlines() if f'<span class="name">{LEASES}</span> ' in line]
    assert '<b class="s deleted">deleted</b>' in head
    assert ", deleted " in head
    assert "missing" not in head
    text = " ".join(check(page).text)
    assert " at most, 0 B at last, in 2 versions" in text
    row = page.partition(f'b{batch.batch_number}"><th scope="row">')[2].partition("</tr>")[0]
    assert f"{LEASES}</a> (deleted)" in row


def test_a_failed_and_a_quarantined_one(troubled: Path) -> None:
    """A failed batch and a quarantined file are marked on the line of their store."""
    marks = {a["class"] for tag, a in check(page_of(troubled)).tags if tag == "a" and "class" in a}
    assert marks >= {"m failed", "m quarantined"}


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """With fewer batches or versions than there are, the page and the document say so."""
    directory = ready_team(tmp_path)
    page = page_of(directory, "-n", "1", "--changes", "1")
    assert "The newest 1 of 3 that are kept." in page
    assert "1 older version" in page
    target = tmp_path / "page.html"
    words = ("-n", "1", "--changes", "1", "-o", target)
    document = run("report", directory, *words, "--json").json()
    (only,) = document["directories"]
    assert (only["batches"], only["batchesLeftOut"], only["changesLeftOut"]) == (1, 2, 3)
    assert document["bytes"] == target.stat().st_size


def test_a_folder(tmp_path: Path) -> None:
    """Every directory and lane below has a part; one that cannot be opened says why."""
    team = ready_team(tmp_path)
    (team / "lanes").mkdir()
    ready_team(team / "lanes").rename(team / "lanes" / "primary")
    (crashed_team(tmp_path) / DATABASE_NAME).write_bytes(b"")
    page = page_of(tmp_path)
    text = " ".join(check(page).text)
    assert "3 runtime directories" in text
    assert "(lane primary)" in text
    assert "the file is empty: it was truncated" in text
    assert f"rtstore doctor {tmp_path / 'crashed'}" in text
    assert "2 runtime directories" in page_of(team)
    assert str(tmp_path) not in page_of(tmp_path, "--redact")


def test_a_first_start(tmp_path: Path) -> None:
    """A directory in which nothing was committed has a page like any other."""
    open_store(tmp_path / "new").close()
    assert "Nothing was written yet." in page_of(tmp_path / "new")
    check(page_of(tmp_path / "new"))


# --- what is hostile ------------------------------------------------------------------------------


def test_everything_is_escaped(tmp_path: Path) -> None:
    """Values, keys, ids and reasons that are markup, templates or control characters are text: the
    page has no more elements for them, and nothing unprintable."""
    data = {text: [text] for text in HOSTILE if "alone" not in text}
    with open_store(tmp_path / "runtime") as store:
        for number in range(len(HOSTILE)):
            write(store, LEASES, {**data, "n": number})
        run_id = HOSTILE[1]
        with store.begin_run(RunIdentity(run_id=run_id), writes={LEASES: data}) as one:
            assert one.run_id == run_id
    with closing(sqlite3.connect(tmp_path / "runtime" / DATABASE_NAME)) as database, database:
        database.execute("UPDATE runs SET why = ?", (HOSTILE[0] + HOSTILE[3],))
    for options in ((), ("--redact",)):
        page = page_of(tmp_path / "runtime", *options)
        read = check(page)
        assert all(char.isprintable() or char == "\n" for char in page)
        assert "&lt;img src=x onerror=" in page
        assert "\\u202egnp.exe" in "".join(read.text)


# --- what stays secret ----------------------------------------------------------------------------


def secrets_of(seed: int) -> list[str]:
    """A thousand texts that occur nowhere by chance, of all kinds of characters."""
    drawn = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    special = "\"'<>&\\/ \n\t%+=é世🔑\u202e{}"
    return [
        "".join(drawn.choices(letters if number % 2 else letters + special * 2, k=14))
        for number in range(1_000)
    ]


def forms_of(secret: str) -> Iterator[str]:
    """Every form in which a page, or something in it, could have a text."""
    escaped = [secret, visible(secret)]
    escaped += [
        json.dumps(text, ensure_ascii=is_ascii)[1:-1]
        for text in escaped
        for is_ascii in (False, True)
    ]
    escaped += [json.dumps(visible(text))[1:-1] for text in escaped]
    for text in dict.fromkeys(escaped):
        yield text
        yield html.escape(text)
        yield html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
        yield text.encode("ascii", "xmlcharrefreplace").decode()
        yield urllib.parse.quote(text)
        yield urllib.parse.quote(text, safe="")
    raw = secret.encode()
    yield raw.hex()
    yield "".join(f"\\u{ord(char):04x}" for char in secret)
    yield "".join(f"&#{ord(char)};" for char in secret)
    yield "".join(f"&#x{ord(char):x};" for char in secret)
    for shift in range(3):  # whatever stands before it, but for the characters that it shares
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * shift + raw)[4 if shift else 0 : -4].decode()


def found_in(page: str, secrets: list[str]) -> list[str]:
    """The secrets that are in a page in any form."""
    return [secret for secret in secrets if any(form in page for form in set(forms_of(secret)))]


NUMBERS = [987_654_321_000_017 + number * 7_919 for number in range(50)]


@pytest.fixture(scope="module")
def secrets() -> list[str]:
    """The secrets of this run: others with each, so that none can be known."""
    return secrets_of(random.SystemRandom().getrandbits(64))


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, secrets: list[str]) -> Path:
    """A directory with the secrets of this run."""
    return make_troubled(tmp_path_factory.mktemp("troubled"), secrets)


def make_troubled(parent: Path, secrets: list[str]) -> Path:
    """A directory with secrets wherever there can be any: in documents of all versions, in a file
    that was edited, in errors, reasons and details, and in the names that callers choose."""
    words = [text for text in secrets if text.isalnum()]
    free = [text for text in secrets[950:] if not {"\n", "\t"} & {*text}]  # no id has these
    directory = parent / words[-1]
    identity = RunIdentity(
        run_id=words[-2], capability_snapshot_id=words[-3], behavior_fingerprint=free[0]
    )
    members = [{"name": words[-4], "launchState": "confirmed_alive"}]
    launch = launch_state(words[-2], teamName=words[-5], members=members)
    with open_store(directory, team_name=words[-5], retention=KEEP_EVERYTHING) as store:
        for start in range(0, 900, 50):
            part = secrets[start : start + 50]
            data = {
                "leases": [{"token": text, "kind": "a"} for text in part[:20]],
                "of": {f"key{number}": text for number, text in enumerate(part[20:40])},
                "all": part[40:],
                "numbers": NUMBERS[start // 20 : start // 20 + 3],
            }
            store.write_batch(
                identity=identity,
                reason="launch_checkpoint",
                writes={LEASES: data, LAUNCH: launch},
                batch_id=free[start // 50 + 1] if start < 500 else None,
            )
        file_of(store, LEASES).write_text(json.dumps({"mine": secrets[900:920]}))
        store.write_batch(identity=identity, reason="recovery", writes={LEASES: secrets[920:930]})
        sessions = {"sessions": [{"id": 1, "runId": secrets[930]}]}
        file_of(store, SESSIONS).write_text(json.dumps(sessions))
        file_of(store, DIAGNOSTICS).write_text(secrets[931])
    with closing(sqlite3.connect(directory / DATABASE_NAME)) as database, database:
        database.execute("UPDATE quarantined_files SET reason = ?", (secrets[932],))
        database.execute("UPDATE runs SET why = ?, host = ?", (secrets[933], words[-6]))
        values = (secrets[934], words[-2], words[-5], f"quoting {secrets[935]}")
        database.execute(
            "INSERT INTO write_batches (batch_id, state, reason, run_id, team_name, started_at,"
            " completed_at, last_error, origin) VALUES (?, 'failed', 'recovery', ?, ?,"
            " '2026-04-21T12:00:00.000Z', '2026-04-21T12:00:00.000Z', ?, 'written')",
            values,
        )
        database.execute(
            "INSERT INTO batch_writes SELECT (SELECT max(batch_number) FROM write_batches),"
            " schema_name, position, 'another', schema_version, relative_path, content_hash,"
            " file_size, mtime_ns, written_at FROM batch_writes WHERE schema_name = ? LIMIT 1",
            (LEASES,),
        )
        database.execute(
            "INSERT INTO recovery_runs VALUES (1, ?, 'open', 1, 'none',"
            " '2026-04-21T12:00:00.000Z', '2026-04-21T12:00:00.000Z', 'none')",
            (secrets[936],),
        )
        reason = f"uncommitted_batch:{secrets[937]}"
        database.execute(
            "INSERT INTO recovery_actions VALUES (1, 0, 'roll_forward', ?, ?, 'failed', ?, NULL)",
            (LEASES, reason, secrets[938]),
        )
    return directory


def test_no_value_is_in_a_redacted_page(troubled: Path, secrets: list[str]) -> None:
    """Of a thousand secrets that are in documents, texts and names, none is in the page in any form
    that a page could have it in; what helps to find a bug still is."""
    page = page_of(troubled, "--redact")
    assert found_in(page, secrets) == []
    assert found_in(page, [str(number) for number in NUMBERS]) == []
    check(page)
    for kept in (
        LEASES,
        "/leases/0/token",
        "string of 14",
        "number",
        "sha256:",
        "run 1",
        "batch 1",
    ):
        assert kept in page, kept


def test_the_search_would_find_them(troubled: Path, secrets: list[str]) -> None:
    """The same search finds the secrets in the page that has the values."""
    page = page_of(troubled)
    assert len(found_in(page, secrets)) >= 880  # of the first version the beginning is shown
    assert len(found_in(page, [str(number) for number in NUMBERS])) >= 45
    texts = [*secrets[932:939], troubled.name]
    assert set(texts) - set(found_in(page, texts)) <= {secrets[936]}  # a plan's id is not shown


def _records() -> list[type[Record]]:
    found = [value for value in vars(facts).values() if isinstance(value, type)]
    return [kind for kind in found if issubclass(kind, Record) and kind is not Record]


@pytest.mark.parametrize("kind", _records(), ids=lambda kind: kind.__name__)
def test_every_text_has_a_rule(kind: type[Record]) -> None:
    """A field that holds text says what becomes of it where values are left out."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if str in _leaves(hint):
            assert rules_of(kind)[name] is not None, name


def _leaves(hint: Any) -> set[Any]:
    parts = [part for part in get_args(hint) if part is not Ellipsis]
    return set(chain.from_iterable(map(_leaves, parts))) | ({hint} if not parts else set())


def test_an_outline_has_no_value() -> None:
    """Keys, types and sizes stay."""
    value = {"a": ["x" * 3, 1.5, True, None, {}], "b": {"c": []}}
    expected = '{"a": [string of 3, number, boolean, null, object of 0], "b": {"c": array of 0}}'
    assert outline(value) == expected
    assert outline(list(range(30))).endswith(", ... 10 more]")


# --- where it goes --------------------------------------------------------------------------------


def test_the_page_has_the_name_of_the_team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -o it is in the working directory, for its owner only; a second one replaces it with
    --force only; a redacted one is not named by the team."""
    directory = ready_team(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("report", directory).code == ExitCode.READY
    page = Path("rtstore-report-demo-team.html")
    assert page.stat().st_mode & 0o777 == 0o600
    page.write_text("old")
    refused = run("report", directory)
    assert (refused.code, refused.out) == (ExitCode.WRONG_CALL, "")
    assert f"{page} is there already; --force replaces it" in refused.err
    assert page.read_text() == "old"
    assert run("report", directory, "--force").code == ExitCode.READY
    check(page.read_text(encoding="utf-8"))
    assert run("report", directory, "--redact").code == ExitCode.READY
    names = {path.name for path in Path().iterdir()}
    assert names == {page.name, "rtstore-report-redacted.html"}


def test_what_no_page_is_written_to(tmp_path: Path) -> None:
    """Anything but a new .html file in a directory that is there is refused, and so are the files
    of stores and rtstore's own names, even with --force; nothing changes."""
    directory = tmp_path / "runtime"
    odd = plain_descriptor("odd.page", "page.html")
    with open_store(directory, descriptors=[odd]) as store:
        write(store, "odd.page", {"a": 1})
    (directory / "quarantine").mkdir()
    (tmp_path / "folder.html").mkdir()
    before = picture(tmp_path)
    link = tmp_path / "link"
    for target, why in {
        directory / "page.html": "is the file of odd.page",
        directory / "PAGE.html": "is the file of odd.page",
        directory / "quarantine" / "a.html": "is reserved",
        directory / "runtime-store.a.html": "is reserved",
        directory / DATABASE_NAME: "does not end in .html",
        tmp_path / "no" / "a.html": "there is no directory",
        tmp_path / "folder.html": "is a directory",
    }.items():
        refused = run("report", directory, "-o", target, "--force")
        assert (refused.code, refused.out) == (ExitCode.WRONG_CALL, ""), target
        assert why in refused.err
    assert picture(tmp_path) == before
    link.symlink_to(directory)
    assert "is the file of" in run("report", directory, "-o", link / "page.html", "--force").err
    assert run("report", directory, "-o", "-", "--json").code == ExitCode.WRONG_CALL


def test_a_page_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing fails nothing is left; when somebody makes the file meanwhile, it stays."""
    directory, target = ready_team(tmp_path), tmp_path / "out" / "a.html"
    target.parent.mkdir()

    def fail(*_: Any) -> bool:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(FileSystem, "rename_new", fail)
        failed = run("report", directory, "-o", target)
        assert failed.code == ExitCode.RETRY_LATER
        assert "No space left on device; -o FILE writes the page elsewhere" in failed.err
    assert list(target.parent.iterdir()) == []

    def be_late(*_: Any) -> bool:
        target.write_text("mine")
        return False

    monkeypatch.setattr(FileSystem, "rename_new", be_late)
    assert run("report", directory, "-o", target).code == ExitCode.WRONG_CALL
    assert [path.read_text() for path in target.parent.iterdir()] == ["mine"]


# --- the charts -----------------------------------------------------------------------------------


def test_many_sizes_are_one_short_line() -> None:
    """A chart of many sizes has few steps, the largest and the last among them."""
    sizes = [Size(at=NOON + timedelta(seconds=n), size=n % 97 + 1) for n in range(20_000)]
    found = chart.growth_of(sizes)
    assert found is not None
    assert (found.first, found.last, found.largest) == (1, 19_999 % 97 + 1, 97)
    assert found.line.count("H") <= 500
    assert chart.growth_of(sizes[:1]) is None


def test_many_batches_are_few_strokes() -> None:
    """The lines of time do not grow with the batches: one stroke a thousandth of the width; the
    newest have a line of their own, and the longest pause is named."""
    batch = facts.Batch(
        number=1, batch_id="b", watermark=1, state="committed", is_open=False, is_recovered=False,
        reason="recovery", run_id=None, started_at=NOON, completed_at=NOON, stores=(LEASES,),
        deleted=(), error=None,
    )  # fmt: skip
    batches = tuple(
        batch.model_copy(update={"started_at": NOON + timedelta(seconds=n + (n > 500) * 3600)})
        for n in range(3_000)
    )
    contents = facts.Contents(
        team=TEAM, readiness="", problems=(), watermark=1, identity=None, database_bytes=0,
        wal_bytes=0, history="", stores=(), batches=batches[::-1], batches_in_all=3_000, runs=(),
        runs_in_all=0, quarantined=(), quarantined_in_all=0, recoveries=(), recoveries_in_all=0,
    )  # fmt: skip
    newest, whole = chart.timelines_of(contents, NOON)
    assert (newest.batches, whole.batches) == (200, 3_000)
    assert sum(path.count("M") for _, path in whole.rows[0].ticks) <= chart.WIDTH + 1
    assert whole.longest_pause is not None
    assert chart.elapsed(whole.longest_pause) == "60.0 min"
