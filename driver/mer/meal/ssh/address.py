"""Where a server really is and how it is entered: what the record says, then the ssh_config, then ssh's own defaults.

Each value keeps where it came from, so that `mer server show` can tell.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from mer.core.errors import ConfigurationError
from mer.core.hops import Hop, check_host, check_port, check_user, parse_hop
from mer.meal.secrets import Secrets
from mer.meal.ssh.config import ConfigFiles, Told
from mer.meal.ssh.known_hosts import PORT, KnownHosts, Policy

RECORD = "record"
DEFAULT = "default"
ENVIRONMENT = "environment"
SETTING = "setting"

IDENTITY_FILES = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")
"""Below ~/.ssh, where no IdentityFile is set."""

USER_KNOWN_HOSTS = ("known_hosts", "known_hosts2")
GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")

KEEPALIVE_SECONDS = 15.0
"""Between two questions to a connection that is silent whether it is still there."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Value(Generic[T]):
    """A value, and where it came from: `record`, `/home/ada/.ssh/config:12`, `environment`, `setting` or `default`."""

    value: T
    origin: str


@dataclass(frozen=True, kw_only=True)
class Operator:
    """This side of a connection: whose files, agent and secrets count."""

    home: Path
    secrets: Secrets
    agent: str | None = None
    """The socket of the ssh-agent that the environment names."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """For what an ssh_config names by variable."""
    config: str = ""
    """The setting MER_SSH_CONFIG."""
    policy: Policy = Policy.STRICT
    own_known_hosts: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server as its record has it."""

    name: str
    address: str
    user: str | None = None
    port: int | None = None
    jump: tuple[str, ...] = ()
    password_from: str | None = None
    operator: Operator
    keepalive_seconds: float = KEEPALIVE_SECONDS
    by_way_of: str = ""
    """Of a machine to jump by: which server it leads to."""

    def hop(self, hop: Hop, *, name: str) -> Target:
        """Return the target that a machine on the way is: entered with the operator's own keys."""
        of = self.by_way_of or self.name
        return replace(
            self,
            name=name,
            address=hop.host,
            user=hop.user,
            port=hop.port,
            jump=(),
            password_from=None,
            by_way_of=of,
        )


@dataclass(frozen=True, kw_only=True)
class Address:
    """Everything that it takes to connect."""

    alias: str
    """As it was written."""
    host: Value[str]
    port: Value[int]
    user: Value[str]
    identity_files: Value[tuple[str, ...]]
    certificate_files: tuple[str, ...]
    identities_only: bool
    agent: Value[str | None]
    jump: Value[tuple[Hop, ...]]
    proxy_command: Value[str | None]
    key_name: Value[str]
    """Under which the host's key is looked up: its HostKeyAlias or its host name."""
    known_hosts: KnownHosts
    known_hosts_origin: str
    """Of the files beside MER's own."""
    policy: Value[Policy]
    password_from: Value[str | None]
    files: tuple[Path, ...]
    """Of the ssh_config."""
    options: Mapping[str, Any]
    """All that these say of it, by asyncssh's names."""

    def fields(self) -> dict[str, tuple[str, str]]:
        """Return what a person may know of it: a name to text and origin. A command and its arguments are not told."""
        hops = ", ".join(map(str, self.jump.value))
        command = None if self.proxy_command.value is None else "by a ProxyCommand"
        told: dict[str, tuple[object, str]] = {
            "host": (self.host.value, self.host.origin),
            "port": (self.port.value, self.port.origin),
            "user": (self.user.value, self.user.origin),
            "identity files": (", ".join(self.identity_files.value), self.identity_files.origin),
            "agent": (self.agent.value, self.agent.origin),
            "jump": (hops, self.jump.origin),
            "proxy": (command, self.proxy_command.origin),
            "password": (self.password_from.value, self.password_from.origin),
            "host key of": (self.key_name.value, self.key_name.origin),
            "host keys": (self.policy.value.value, self.policy.origin),
            "known hosts": (", ".join(map(str, self.known_hosts.others)), self.known_hosts_origin),
            "trusted here": (self.known_hosts.own, "mer server trust"),
        }
        return {name: (str(text), origin) for name, (text, origin) in told.items() if text not in (None, "")}


def effective(target: Target) -> Address:
    """Return what a target comes to. Blocks: it reads the ssh_config.

    Raises:
        ConfigurationError: the ssh_config or the record cannot be used.
    """
    operator = target.operator
    files = ConfigFiles.of(operator.config, home=operator.home)
    told = files.told(target.address, user=target.user, port=target.port)
    found = _Finder(target, told)
    host = found.value("Hostname", None, target.address, default_origin=RECORD)
    user = found.value("User", target.user, _local_user())
    port = found.value("Port", target.port, PORT)
    check_host(host.value)
    check_port(port.value)
    if target.user is not None:
        check_user(target.user)
    jump, proxy = _way(target, told)
    if proxy.value is not None:
        _require_inert(target.address, target.user)
    alias = told.options.get("HostKeyAlias")
    key_name = Value(str(alias), told.origins["HostKeyAlias"]) if alias else Value(host.value, host.origin)
    policy = Value(operator.policy, DEFAULT if operator.policy is Policy.STRICT else SETTING)
    password = Value(target.password_from, RECORD if target.password_from else DEFAULT)
    return Address(
        alias=target.address,
        host=host,
        port=port,
        user=user,
        identity_files=_identities(told, operator),
        certificate_files=tuple(_expanded(told.options.get("CertificateFile") or (), operator)),
        identities_only=bool(told.options.get("IdentitiesOnly")),
        agent=_agent(told, operator),
        jump=jump,
        proxy_command=proxy,
        key_name=key_name,
        known_hosts=_known_hosts(told, operator),
        known_hosts_origin=told.origins.get("UserKnownHostsFile", DEFAULT),
        policy=policy,
        password_from=password,
        files=files.paths,
        options=told.options,
    )


@dataclass(frozen=True)
class _Finder:
    target: Target
    told: Told

    def value(self, name: str, recorded: T | None, default: T, *, default_origin: str = DEFAULT) -> Value[T]:
        if recorded is not None:
            return Value(recorded, RECORD)
        if (set_to := self.told.options.get(name)) is not None:
            return Value(set_to, self.told.origins.get(name, "ssh_config"))
        return Value(default, default_origin)


def _way(target: Target, told: Told) -> tuple[Value[tuple[Hop, ...]], Value[str | None]]:
    """Return the machines to jump by, and the command to connect by: one of both at most."""
    straight: Value[tuple[Hop, ...]] = Value((), DEFAULT)
    if target.jump:
        return Value(tuple(map(parse_hop, target.jump)), RECORD), Value(None, DEFAULT)
    first = told.first("ProxyJump", "ProxyCommand")
    if first is None or told.options[first] is None:
        return straight, Value(None, DEFAULT)
    origin = told.origins.get(first, "ssh_config")
    if first == "ProxyJump":
        hops = tuple(parse_hop(text.strip()) for text in str(told.options[first]).split(","))
        return Value(hops, origin), Value(None, DEFAULT)
    return straight, Value(str(told.options[first]), origin)


def _require_inert(address: str, user: str | None) -> None:
    """See that nothing of a record means anything to the shell that runs a ProxyCommand, into which it is put.

    Raises:
        ConfigurationError
    """
    for what, text in (("address", address), ("user", user or "")):
        if not re.fullmatch(r"[\w.:%@+=/,-]*", text):
            raise ConfigurationError(f"the {what} {text!r} cannot be used together with a ProxyCommand")


def _identities(told: Told, operator: Operator) -> Value[tuple[str, ...]]:
    if (files := told.options.get("IdentityFile")) is not None:
        return Value(tuple(_expanded(files, operator)), told.origins.get("IdentityFile", "ssh_config"))
    folder = operator.home / ".ssh"
    return Value(tuple(str(folder / name) for name in IDENTITY_FILES if (folder / name).exists()), DEFAULT)


def _agent(told: Told, operator: Operator) -> Value[str | None]:
    named = "IdentityAgent" in told.options
    text = told.options.get("IdentityAgent")
    if not named or text == "SSH_AUTH_SOCK":
        return Value(operator.agent, ENVIRONMENT if operator.agent else DEFAULT)
    origin = told.origins.get("IdentityAgent", "ssh_config")
    if text is None:
        return Value(None, origin)
    if str(text).startswith("$"):
        return Value(operator.environ.get(str(text)[1:].strip("{}")), origin)
    return Value(str(Path(text).expanduser()), origin)


def _known_hosts(told: Told, operator: Operator) -> KnownHosts:
    own_folder = operator.home / ".ssh"
    user = told.options.get("UserKnownHostsFile")
    everybody = told.options.get("GlobalKnownHostsFile")
    files = [str(own_folder / name) for name in USER_KNOWN_HOSTS] if user is None else list(user)
    files += list(GLOBAL_KNOWN_HOSTS) if everybody is None else list(everybody)
    return KnownHosts(own=operator.own_known_hosts, others=tuple(map(Path, _expanded(files, operator))))


def _expanded(files: Sequence[str], operator: Operator) -> list[str]:
    """Return paths with their `~` and `%d` replaced; one that is relative is so to the home, as for ssh."""
    found = []
    for text in files:
        text = text.replace("%d", str(operator.home))
        if text.startswith("~/"):
            text = str(operator.home / text[2:])
        found.append(str(operator.home / _of_another(text)))
    return found


def _of_another(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # `~` and a user who does not exist
        return Path(text)


def _local_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a uid that nobody has
        return f"uid-{os.getuid()}"
