"""From a server's record to an open connection: by way of other machines or a ProxyCommand, each step with its deadline.

asyncssh could jump by itself, but would then judge the keys of the machines on the way by its own rules.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from typing import Any, NamedTuple, NoReturn

import asyncssh

from mer.core.errors import AuthenticationFailed, ConfigurationError, HostKeyRefused, MerError, ServerUnreachable
from mer.core.hops import MAX_HOPS
from mer.detached import detached
from mer.meal.ssh.address import Address, Target, effective
from mer.meal.ssh.knock import SECONDS, Knock, Step, Told
from mer.meal.ssh.known_hosts import Known
from mer.meal.ssh.proxy import Proxy

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)
"""The fastest first: half as much again as asyncssh's own first choice."""

KEY_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""Of host keys, where the ssh_config names none; those that are known of a host come first, so that it shows one of them."""

KEEPALIVE_COUNT = 3
"""A connection that has not answered so many times in a row is lost: after 45 to 60 seconds of silence."""

PROXY_SECONDS = 0.5
"""What a ProxyCommand gets to end and say why, once its bytes have ended."""


class Dropped(ServerUnreachable):
    """The server dropped the connection before it asked who we are: that is how one with too many at its door behaves."""

    @property
    def code(self) -> str:
        """That of its kind."""
        return "server-unreachable"


class Shown(NamedTuple):
    """A machine that has shown its key."""

    address: Address
    knock: Knock


async def reach(target: Target, *, told: Told | None = None, looks_up: bool = True) -> asyncssh.SSHClientConnection:
    """Connect, and log in. `told` hears of each step, for the last machine; `looks_up`: of the name as a step of its own.

    Raises:
        ServerUnreachable: with the step that failed. Dropped: another try may do.
        HostKeyRefused, AuthenticationFailed: it is not the machine that we know, or does not let us in.
        ConfigurationError: the ssh_config or the record cannot be used.
        Interrupted: by who was asked for a passphrase.
    """
    if told is not None:
        told(Step.RESOLVE, None)
    address = await address_of(target)
    if told is not None and looks_up:
        await _resolved(target, address, told)
    elif told is not None and address.jump.value:
        told(Step.JUMP, None)
    knock = await _knocked(target, address, told=told)
    tunnel = await _tunnel(target, address, depth=0)
    if told is not None:
        if tunnel is not None:
            told(Step.JUMP, ", ".join(map(str, address.jump.value)))
        told(Step.CONNECT, None)
    return await _connected(target, address, tunnel, knock)


async def address_of(target: Target) -> Address:
    """Work out what takes effect for a target.

    The ssh_config may run commands (`Match exec`), one of which may never end: its thread is waited for by nobody.

    Raises:
        ConfigurationError: the ssh_config or the record cannot be used, or it takes too long.
    """
    try:
        async with asyncio.timeout(SECONDS[Step.RESOLVE]):
            return await detached(effective, target)
    except TimeoutError as error:
        raise ConfigurationError(
            f"{target.name}, {Step.RESOLVE}: the ssh_config was not read within {SECONDS[Step.RESOLVE]:g} s",
            hint="Does a command of a `Match exec` hang?",
        ) from error


async def shown_key(target: Target) -> Shown:
    """Return the key that a server shows, without logging in; or that of the first machine on the way that is not trusted.

    Raises: as `reach`.
    """
    address = await address_of(target)
    last = Shown(address, await _knocked(target, address, only_key=True))
    on_the_way: list[Shown] = []
    try:
        tunnel = await _tunnel(target, address, depth=0, seen=on_the_way)
        connection = await _connected(target, address, tunnel, last.knock)
    except HostKeyRefused:
        shown = on_the_way[-1] if last.knock.key is None and on_the_way else last
        if shown.knock.key is None:
            raise
        return shown
    connection.abort()
    raise AssertionError("a knock for the key alone lets nobody in")


async def _tunnel(
    target: Target, address: Address, *, depth: int, seen: list[Shown] | None = None
) -> asyncssh.SSHClientConnection | None:
    """Connect to the machines on the way, one by way of the other, and return the connection to the last.

    `seen` gets each of them before it is connected to.
    """
    tunnel: asyncssh.SSHClientConnection | None = None
    hops = address.jump.value
    if depth + len(hops) > MAX_HOPS:
        raise ConfigurationError(
            f"more than {MAX_HOPS} machines stand on the way to {target.name}: do they jump in a ring?"
        )
    try:
        for index, hop in enumerate(hops):
            step = target.hop(hop, name=f"{target.name}, by way of {hop}")
            way = await address_of(step)
            if index == 0:  # as ssh does: only the first is reached as its own configuration says
                tunnel = await _tunnel(step, way, depth=depth + len(hops), seen=seen)
            knock = await _knocked(step, way)
            if seen is not None:
                seen.append(Shown(way, knock))
            tunnel = await _connected(step, way, tunnel, knock)
    except BaseException:
        if tunnel is not None:
            tunnel.abort()
        raise
    return tunnel


async def _knocked(target: Target, address: Address, *, told: Told | None = None, only_key: bool = False) -> Knock:
    known = await asyncio.to_thread(address.known_hosts.of, address.key_name.value, address.port.value)
    server = target.by_way_of or target.name
    return Knock(server, address, known, target.operator.secrets, told=told, only_key=only_key)


async def _connected(
    target: Target, address: Address, tunnel: asyncssh.SSHClientConnection | None, knock: Knock
) -> asyncssh.SSHClientConnection:
    proxy: Proxy | None = None
    given: dict[str, Any] = {}
    try:
        async with asyncio.timeout(SECONDS[Step.CONNECT]) as knock.timer:
            if tunnel is not None:
                given["tunnel"] = tunnel
            elif address.proxy_command.value is not None:
                proxy, given["sock"] = await Proxy.start(address.proxy_command.value)
            connection = await _handshake(target, address, knock, given)
    except BaseException as error:
        knock.identities.close()
        if tunnel is not None:
            tunnel.abort()
        if proxy is not None:
            await proxy.gone(PROXY_SECONDS)
            await proxy.ended()
        if isinstance(error, (OSError, asyncssh.Error, TimeoutError, ValueError)):
            _raise_told(target, address, knock, error, proxy)
        raise
    finally:
        knock.timer = None
    if proxy is not None:
        knock.closed = proxy.end
    if tunnel is not None:
        connection.set_tunnel(tunnel)
    return connection


async def _resolved(target: Target, address: Address, told: Told) -> None:
    """Look the name up, for who wants to see each step; asyncssh does it once more."""
    host, port, hops = address.host.value, address.port.value, address.jump.value
    if hops or address.proxy_command.value is not None:
        way = f"by way of {', '.join(map(str, hops))}" if hops else "by a ProxyCommand"
        told(Step.RESOLVE, f"{host} port {port}, {way}")
        if hops:
            told(Step.JUMP, None)
        return
    try:
        async with asyncio.timeout(SECONDS[Step.RESOLVE]):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise ServerUnreachable(_timed_out(target.name, host, Step.RESOLVE)) from error
    except (OSError, UnicodeError) as error:
        raise _not_resolved(target, address, error) from error
    told(Step.RESOLVE, ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found)))


async def _handshake(
    target: Target, address: Address, knock: Knock, given: dict[str, Any]
) -> asyncssh.SSHClientConnection:
    known = knock.known
    # of a certificate asyncssh shows us the authority only, and looks itself whether its key was revoked
    revoked = [line.key for line in known.revoked] if known.authorities and not knock.only_key else []
    options: dict[str, Any] = {
        "config": [str(path) for path in address.files] or None,
        "tunnel": None,  # ours, or none: never one of asyncssh's own making
        "proxy_command": None,
        "client_factory": lambda: knock,
        "known_hosts": lambda _host, _addr, _port: ([], [], revoked),
        "canonicalize_hostname": False,  # the key is looked up under the name that was worked out
        "x509_trusted_certs": None,
        "client_keys": None,  # they are asked for when it comes to them
        "gss_kex": False,  # it would do without a host key
        "gss_auth": bool(address.options.get("GSSAPIAuthentication")),
        "agent_forwarding": False,
        "command": None,
        "connect_timeout": None,
        "login_timeout": 0,  # each step has a time of its own, and people are waited for
        "compression_algs": None,
        "keepalive_interval": target.keepalive_seconds,
        "keepalive_count_max": KEEPALIVE_COUNT,
        **given,
    }
    if target.user is not None:
        options["username"] = target.user
    if target.port is not None:
        options["port"] = target.port
    if "Ciphers" not in address.options:
        options["encryption_algs"] = list(CIPHERS)
    if "HostKeyAlgorithms" not in address.options:
        options["server_host_key_algs"] = _key_algorithms(known, certificates=not knock.only_key)
    return await asyncssh.connect(address.alias, **options)


def _key_algorithms(known: Known, *, certificates: bool) -> list[str]:
    have = [
        name.decode()
        for line in (*known.keys, *known.elsewhere)
        for name in line.key.sig_algorithms
        if name.decode() in KEY_ALGORITHMS
    ]
    # without an authority that we know, a certificate would hide the key that we do know
    certified = (
        [f"{name}-cert-v01@openssh.com" for name in KEY_ALGORITHMS] if known.authorities and certificates else []
    )
    return [*certified, *dict.fromkeys([*have, *KEY_ALGORITHMS])]


def _raise_told(
    target: Target,
    address: Address,
    knock: Knock,
    error: Exception,
    proxy: Proxy | None,
) -> NoReturn:
    """Raise what an operator is to be told of a failed attempt."""
    name, step = target.name, knock.step
    place = f"{address.host.value} port {address.port.value}"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        if knock.only_key and knock.key is not None:
            raise HostKeyRefused from error
        told = knock.error or (knock.refusal() if knock.key is not None else HostKeyRefused(f"{name}: {error.reason}"))
        raise told from error
    if knock.error is not None:
        raise knock.error from error
    if isinstance(error, asyncssh.PermissionDenied) or (
        step is Step.AUTHENTICATE and isinstance(error, asyncssh.DisconnectError) and not _is_drop(error)
    ):
        raise _not_let_in(name, address, knock, error) from error
    if isinstance(error, TimeoutError) and error.errno is None:
        raise ServerUnreachable(
            _timed_out(name, place, step), hint=None if step is Step.AUTHENTICATE else _where(name)
        ) from error
    said = "" if proxy is None else proxy.words
    if isinstance(error, (socket.gaierror, UnicodeError)):
        raise _not_resolved(target, address, error) from error
    if proxy is not None and "ended with status" in said and "status 0" not in said:
        raise ServerUnreachable(f"{name}, {step}: {said}") from error
    words = f"{name}, {step}: {_words(error)}" + (f" ({said})" if said else "")
    if refused := _not_connected(error):
        raise ServerUnreachable(f"{name}, {step}: {place}: {refused}", hint=_where(name)) from error
    if _is_drop(error):
        raise (Dropped if step is not Step.AUTHENTICATE else ServerUnreachable)(words) from error
    if isinstance(error, asyncssh.ChannelOpenError):
        raise ServerUnreachable(f"{name}, {step}: {place} cannot be reached from there: {error.reason}") from error
    if isinstance(error, ValueError):
        raise ConfigurationError(f"{name}: {_words(error)}") from error
    raise ServerUnreachable(words) from error


def _is_drop(error: Exception) -> bool:
    return isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError, BrokenPipeError))


def _not_connected(error: Exception) -> str:
    """Return why none of a name's addresses took a connection; nothing where it was something else that failed."""
    if not isinstance(error, OSError) or "Connect call failed" not in str(error):
        return ""
    # of several addresses asyncio tells in one text, each with its number
    numbers = [error.errno] if error.errno else map(int, re.findall(r"\[Errno (\d+)\]", str(error)))
    return "; ".join(dict.fromkeys(map(os.strerror, numbers)))


def _where(name: str) -> str:
    return f"mer server show {name} tells which host and port these are, and from where"


def _timed_out(name: str, place: str, step: Step) -> str:
    seconds, name = f"within {SECONDS[step]:g} s", f"{name}, {step}"
    match step:
        case Step.RESOLVE:
            return f"{name}: its name was not resolved {seconds}"
        case Step.JUMP | Step.CONNECT:
            return f"{name}: {place} did not answer {seconds}"
        case Step.HOST_KEY:
            return f"{name}: {place} took the connection and showed no host key {seconds}"
        case Step.AUTHENTICATE:
            return f"{name}: {place} did not say {seconds} whether it lets us in"


def _not_resolved(target: Target, address: Address, error: Exception) -> ServerUnreachable:
    if isinstance(error, UnicodeError):
        return ServerUnreachable(f"{target.name}, {Step.RESOLVE}: {address.host.value!r} is no host name")
    return ServerUnreachable(f"{target.name}, {Step.RESOLVE}: {address.host.value} does not resolve: {_words(error)}")


def _not_let_in(name: str, address: Address, knock: Knock, error: Exception) -> MerError:
    identities = knock.identities
    tried = [f"{identities.offered} key{'' if identities.offered == 1 else 's'} offered"]
    if identities.unusable:
        tried.append(f"not usable: {'; '.join(identities.unusable)}")
    if knock.password_given:
        tried.append("the password refused")
    hint = None
    if identities.locked:
        tried.append(f"locked: {', '.join(identities.locked)}")
        hint = "Nobody gave their passphrase. With a terminal it is asked for; without one: ssh-add FILE."
    elif knock.methods:
        hint = f"It would let somebody in by: {knock.methods}"
    reason = "" if isinstance(error, asyncssh.PermissionDenied) else f": {_words(error)}"
    return AuthenticationFailed(
        f"{name}, {Step.AUTHENTICATE}: it does not let {address.user.value} in{reason} ({'; '.join(tried)})", hint=hint
    )


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
