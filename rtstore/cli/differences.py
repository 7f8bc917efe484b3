"""Shows what differs between two versions of a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rtstore.cli.output import Page
from rtstore.model.differences import Difference, DifferenceKind

_SIGNS = {
    DifferenceKind.ADDED: ("+", "good"),
    DifferenceKind.REMOVED: ("-", "bad"),
    DifferenceKind.CHANGED: ("~", "warn"),
}


def show_differences(page: Page, differences: Sequence[Difference]) -> None:
    """Print the differences, value by value, or that there is none."""
    if not differences:
        page.line("no difference")
    for found in differences:
        sign, tone = _SIGNS[found.kind]
        page.exact(f"{sign} {found.path or '(all of it)'}", tone)
        if found.kind is not DifferenceKind.ADDED:
            page.exact(f"    - {_value(found.before)}", "bad")
        if found.kind is not DifferenceKind.REMOVED:
            page.exact(f"    + {_value(found.after)}", "good")


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
