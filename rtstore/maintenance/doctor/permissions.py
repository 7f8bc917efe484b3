"""Judges who may read and write what is in a runtime directory: a part of `judge`."""

from __future__ import annotations

from collections.abc import Iterator

from rtstore.maintenance.doctor.facts import Facts
from rtstore.maintenance.doctor.finding import Check, Finding, FindingBuilder
from rtstore.model.records import HindranceKind, Suggestion
from rtstore.shell import shell_word


def permissions(facts: Facts) -> Iterator[Finding]:
    """Return the findings about owners and modes."""
    say = FindingBuilder(Check.PERMISSIONS)
    well = True
    if facts.others:
        names = ", ".join(facts.others[:5]) + (", ..." if facts.others[5:] else "")
        yield say.red(
            f"of another user, and not to be changed by this one: {names}", make_accessible(facts)
        )
        well = False
    unreadable = [name for name in facts.unreadable if name not in facts.others]
    if unreadable:
        yield say.red(f"not readable: {', '.join(unreadable)}", make_accessible(facts))
        well = False
    told = (*unreadable, *(f"{name}/" for name in facts.others))
    shut = [name for name in facts.shut_folders if name not in told]
    if shut and not facts.is_read_only:
        yield say.red(
            f"this user may not write in {', '.join(shut)}: each batch that writes there fails",
            make_accessible(facts),
        )
        well = False
    by_owner_or_mode = (HindranceKind.OWNER, HindranceKind.MODE)
    told_of = [found for found in facts.hindrances if found.kind not in by_owner_or_mode]
    for found in told_of:
        if found.kind is not HindranceKind.LOCK:  # told of already
            yield say.red(found.problem, found.way)
            well = False
    if facts.is_read_only:
        well = False
    elif facts.not_writable and not facts.others and not told_of:
        where = "here" if "." in facts.not_writable else ", ".join(facts.not_writable)
        yield say.red(f"this user may not write {where}", make_accessible(facts))
        well = False
    if facts.loose_modes:
        yield say.yellow(
            f"open to other users: {', '.join(facts.loose_modes)}; it may be meant",
            Suggestion(
                command=f"chmod -R go-rwx {shell_word(facts.directory)}",
                why="closes it to everybody but its owner",
            ),
        )
        well = False
    if well:
        yield say.green("for its owner alone, who may read and write")


def make_accessible(facts: Facts) -> Suggestion:
    """Suggest a change of owner when the owner is wrong, else a change of modes."""
    is_owners = any(found.kind is HindranceKind.OWNER for found in facts.hindrances)
    if facts.owning is not None and (facts.others or facts.is_others or is_owners):
        return facts.owning
    return Suggestion(
        command=f"chmod -R u+rwX {shell_word(facts.directory)}",
        why="gives its owner what is missing (as its owner, or root)",
    )
