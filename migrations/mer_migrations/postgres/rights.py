"""What the driver's role and the auditor's may do: taken away and granted anew, from the files of all that was applied.

So a role that is renamed or added later gets its rights at the next upgrade, and a right that a file no longer grants is gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from mer_migrations.postgres.roles import Roles
from mer_migrations.postgres.scripts import Script, Statement

KINDS = ("SCHEMA mer", "ALL TABLES IN SCHEMA mer", "ALL SEQUENCES IN SCHEMA mer", "ALL ROUTINES IN SCHEMA mer")


def statements(scripts: Iterable[Script], roles: Roles) -> list[Statement]:
    """Return what gives the roles their rights on what these scripts have made, and nobody else any."""
    names = {purpose: quoted(role.name) for purpose, role in roles.by_purpose.items()}
    everybody = ", ".join(["PUBLIC", *names.values()])
    found = [
        Statement(file="rights", number=number, text=f"REVOKE ALL ON {kind} FROM {everybody};")
        for number, kind in enumerate(KINDS, 1)
    ]
    for script in scripts:
        for purpose in names:
            found += [statement.for_roles(names) for statement in script.rights[purpose]]
    return found


def quoted(name: str) -> str:
    """Return a role's name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
