"""The two roles beside the owner: the driver's, who appends to the log and cannot change it, and an auditor's, who reads.

They are made and limited here where the owner may, and where he may not, an administrator is told his very statements. A
role that could undo what protects the log is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from psycopg import sql
from psycopg.errors import DuplicateObject, InsufficientPrivilege, InternalError_, ReservedName, UniqueViolation
from psycopg.rows import class_row

from mer.core.errors import ConfigurationError
from mer.dal.postgres.cluster import ROLE_LIMITS
from mer_migrations.postgres.connect import Connection

STRONGER = (
    "pg_write_all_data",
    "pg_write_server_files",
    "pg_execute_server_program",
    "pg_maintain",  # who may lock the log's table can hold it up
)
"""Roles that every server has, with which nothing here would hold; nor would it with a superuser's, or one that makes roles."""


TRIES = 10
"""To say something of a role while the migrations of other databases of that server say the same: one of them comes through
each time."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role that is to be there."""

    name: str
    password: str = field(default="", repr=False)
    """To make it with; empty where it must be there already."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Who logs in beside the owner. There need be no auditor."""

    driver: Role
    auditor: Role | None = None

    @property
    def by_purpose(self) -> Mapping[str, Role]:
        """Each under the name that the rights' files have for it."""
        both = {"driver": self.driver, "auditor": self.auditor}
        return {purpose: role for purpose, role in both.items() if role}


@dataclass(frozen=True, kw_only=True)
class _Found:
    is_superuser: bool
    makes_roles: bool
    is_login: bool
    is_owner: bool
    stronger: list[str]
    """Others whose member it is: it inherits nothing of a superuser, but may become it by SET ROLE."""
    above: list[str]
    """Owners whose member it is: of the schema, the tables, the database, or this login."""
    settings: list[str]


_FIND = """
WITH owners AS (
    SELECT current_user::regrole::oid AS oid
    UNION SELECT datdba FROM pg_database WHERE datname = current_database()
    UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'mer'
    UNION SELECT relowner FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'mer')
)
SELECT r.rolsuper AS is_superuser, r.rolcreaterole AS makes_roles, r.rolcanlogin AS is_login,
    r.oid IN (SELECT oid FROM owners) AS is_owner,
    ARRAY(SELECT p.rolname::text FROM pg_roles p
        WHERE (p.rolname = ANY (%(stronger)s) OR p.rolsuper OR p.rolcreaterole)
            AND p.oid <> r.oid AND pg_has_role(r.oid, p.oid, 'MEMBER')) AS stronger,
    ARRAY(SELECT pg_get_userbyid(o.oid)::text FROM owners o WHERE pg_has_role(r.oid, o.oid, 'MEMBER')) AS above,
    ARRAY(SELECT split_part(unnest(s.setconfig), '=', 1) FROM pg_db_role_setting s WHERE s.setrole = r.oid
        AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))) AS settings
FROM pg_roles r WHERE r.rolname = %(name)s"""

_DATABASE = """
SELECT current_database(),
    EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0),
    EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('mer', 'information_schema') AND n.nspname !~ '^pg_'
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
FROM pg_database WHERE datname = current_database()"""

# rights that were granted in the schema, by name; what the owner has is in the lists too
_OTHERS = """
WITH granted AS (
    SELECT a.grantee, a.privilege_type AS what FROM pg_class c, aclexplode(c.relacl) a
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'mer') AND c.relowner <> a.grantee
    UNION ALL SELECT a.grantee, a.privilege_type FROM pg_proc p, aclexplode(p.proacl) a
    WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'mer') AND p.proowner <> a.grantee
)
SELECT DISTINCT r.rolname::text FROM granted g JOIN pg_roles r ON r.oid = g.grantee
WHERE g.what <> 'SELECT' AND r.rolname <> ALL (%s) ORDER BY 1"""

_CHANGES = """
SELECT has_table_privilege(%s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'mer' AND c.relname = 'access'"""


def refuse_stronger(connection: Connection, roles: Roles) -> None:
    """Make sure that no role could undo what protects the log; one that is not there yet is in order.

    Raises:
        ConfigurationError
    """
    for purpose, role in roles.by_purpose.items():
        found = _find(connection, role)
        if found and (reason := _too_strong(found)):
            raise ConfigurationError(
                f"the {purpose}'s role {role.name} {reason}: nothing would keep it from changing the access log",
                hint=f"Give another one as {purpose.upper()}_DB_USERNAME; mer-migrate makes it where it may.",
            )
    if roles.auditor and _is_member(connection, roles.auditor, roles.driver):
        raise ConfigurationError(
            f"the auditor's role {roles.auditor.name} may do all that the driver's may, and should only read",
            hint="Give another one as AUDITOR_DB_USERNAME.",
        )


def ensure(connection: Connection, roles: Roles) -> None:
    """Make the roles that are missing, limit them, let them and nobody else into the database: all where this login may.

    Raises:
        ConfigurationError: a role is missing, and this login may not make it or no password was given for it.
    """
    for purpose, role in roles.by_purpose.items():
        if _find(connection, role) is None:
            _make(connection, purpose, role)
    for statement in _wanted(connection, roles):
        with suppress(InsufficientPrivilege):  # advice() has it
            _say(connection, statement)


def advice(connection: Connection, roles: Roles) -> list[str]:
    """Return what an administrator should do, because this login may not."""
    told = [statement.as_string(connection) + ";" for statement in _wanted(connection, roles)]
    superuser = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    if superuser == (True,):
        told.append(
            f"{connection.info.user}, who owns the tables, is a superuser: a role of its own would be enough for mer-migrate"
        )
    for purpose, role in roles.by_purpose.items():
        found = _find(connection, role)
        if found is None:
            told.append(f"there is no role {role.name} for the {purpose}")
        elif not found.is_login:
            told.append(_alter(role, sql.SQL("LOGIN")).as_string(connection) + ";")
        elif connection.execute(_CHANGES, (role.name,)).fetchone() == (True,):
            told.append(f"{role.name} may change mer.access by a right that another role gives it: take that away")
    names = [role.name for role in roles.by_purpose.values()]
    # a driver's role of before, for one: what it was granted stays until somebody takes it away
    for (other,) in connection.execute(_OTHERS, (names,)).fetchall():
        told.append(
            sql.SQL(
                "REVOKE ALL ON ALL TABLES IN SCHEMA mer FROM {0}; REVOKE ALL ON ALL ROUTINES IN SCHEMA mer FROM {0};"
            )
            .format(sql.Identifier(other))
            .as_string(connection)
        )
    return told


def _say(connection: Connection, statement: sql.Composed) -> None:
    for further in reversed(range(TRIES)):
        try:
            connection.execute(statement)
            return
        except (
            InternalError_,
            UniqueViolation,
        ):  # "tuple concurrently updated": another database's migration limits the same role
            if not further:
                raise


def _make(connection: Connection, purpose: str, role: Role) -> None:
    by_hand = [
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD '…'").format(sql.Identifier(role.name)),
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
            sql.Identifier(connection.info.dbname), sql.Identifier(role.name)
        ),
        *(_limit(role, name, value) for name, value in ROLE_LIMITS[purpose].items()),
    ]
    hint = "As an administrator: " + " ".join(statement.as_string(connection) + ";" for statement in by_hand)
    if not role.password:
        raise ConfigurationError(
            f"the {purpose}'s role {role.name} is not there, and there is no password to make it with",
            hint=f"Give {purpose.upper()}_DB_PASSWORD. {hint}",
        )
    # hashed here: a plain password in a statement can end up in the server's log
    hashed = connection.pgconn.encrypt_password(role.password.encode(), role.name.encode(), b"scram-sha-256").decode()
    try:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role.name), sql.Literal(hashed))
        )
    except (DuplicateObject, UniqueViolation):
        return  # the lock on migrating is of one database, and a role is of all: another's migration made it just now
    except InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the {purpose}'s role {role.name} is not there, and {connection.info.user} may not make it", hint=hint
        ) from error
    except ReservedName as error:
        raise ConfigurationError(
            f"PostgreSQL keeps the name {role.name} for itself",
            hint=f"Give another one as {purpose.upper()}_DB_USERNAME.",
        ) from error


def _wanted(connection: Connection, roles: Roles) -> Sequence[sql.Composed]:
    """Return what is still to be said about the roles that are there, and about the database."""
    wanted: list[sql.Composed] = []
    row = connection.execute(_DATABASE).fetchone()
    assert row is not None
    name, everybody, shared = row
    for purpose, role in roles.by_purpose.items():
        found = _find(connection, role)
        if found is None:
            continue
        enters = connection.execute(
            """SELECT EXISTS (SELECT FROM pg_database, aclexplode(datacl) a
                WHERE datname = current_database() AND a.grantee = %s::regrole AND a.privilege_type = 'CONNECT')""",
            (sql.Identifier(role.name).as_string(connection),),
        ).fetchone()
        if enters != (True,):
            wanted.append(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(name), sql.Identifier(role.name))
            )
        wanted += [
            _limit(role, setting, value)
            for setting, value in ROLE_LIMITS[purpose].items()
            if setting not in found.settings  # an administrator's own value stands
        ]
    # in a database that others use too, others have a business, and mer's schema is closed to them anyhow
    if everybody and not shared:
        wanted.append(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    return wanted


def _limit(role: Role, setting: str, value: str) -> sql.Composed:
    return _alter(role, sql.SQL("SET {} = {}").format(sql.Identifier(setting), sql.Literal(value)))


def _alter(role: Role, change: sql.Composable) -> sql.Composed:
    return sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(role.name), change)


def _is_member(connection: Connection, role: Role, other: Role) -> bool:
    """Tell whether a role is another one, or a member of it; one that is not there is none."""
    found = connection.execute(
        "SELECT pg_has_role(a.oid, b.oid, 'MEMBER') FROM pg_roles a, pg_roles b WHERE a.rolname = %s AND b.rolname = %s",
        (role.name, other.name),
    ).fetchone()
    return role.name == other.name or found == (True,)


def _find(connection: Connection, role: Role) -> _Found | None:
    with connection.cursor(row_factory=class_row(_Found)) as cursor:
        return cursor.execute(_FIND, {"name": role.name, "stronger": list(STRONGER)}).fetchone()


def _too_strong(found: _Found) -> str | None:
    if found.is_superuser:
        return "is a superuser"
    if found.is_owner:
        return "is the owner itself"
    if found.above:
        return f"is a member of {found.above[0]}, the owner"
    if found.makes_roles:
        return "may make roles"
    if found.stronger:
        return f"is a member of {found.stronger[0]}"
    return None
