"""${message}

Purpose:
Concerns:
"""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """${message}"""
    ${upgrades if upgrades else "raise RuntimeError('write this revision')"}


def downgrade() -> None:
    """A database is never taken back: restore the back-up that the upgrade made."""
    raise RuntimeError("a database is never taken back: restore the back-up of the upgrade")
