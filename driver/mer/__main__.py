"""The composition root: settings → store, hosts → Mer → a face; the only module that knows every layer."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `mer --help` must cost next to nothing: what opens a database is imported when one is opened
    import asyncio

    from mer.api import Mer
    from mer.core.actor import Actor, Guest, Via
    from mer.core.records import Server
    from mer.dal.base import Store
    from mer.meal.host import Host
    from mer.meal.secrets import Secrets
    from mer.settings import Settings


def main() -> None:
    """Run the console script and exit with its code."""
    try:
        from mer.faces.cli import main as run

        code = run(sys.argv[1:], environ=os.environ, open_mer=open_mer)
    except KeyboardInterrupt:  # before there is a face that could tell it: while the modules are imported
        code = 130
    sys.exit(code)


@contextlib.asynccontextmanager
async def open_mer(settings: Settings, via: Via, *, guest: Guest | None = None) -> AsyncIterator[Mer]:
    """Open the database of the settings, and give a Mer for whoever runs this process, or for a guest of his."""
    from mer.surroundings import current_actor

    async with compose(settings, actor=current_actor(via, environ=os.environ, guest=guest), guest=guest) as m:
        yield m


@contextlib.asynccontextmanager
async def compose(
    settings: Settings, *, actor: Actor, store: Store | None = None, guest: Guest | None = None
) -> AsyncIterator[Mer]:
    """Put a Mer together; with `store`, over that one, which the caller has opened and closes.

    For a `guest` it runs the models that he is lent, and knows no others.

    Raises:
        UsageError: an auditor was given leave to change something.
    """
    if settings.auditor and settings.allow_changes:
        from mer.core.errors import UsageError

        raise UsageError(
            "an auditor only reads", hint="Leave out --auditor, or -a (both may stand in the environment)."
        )
    if store is not None:
        async with _assemble(settings, actor, store, guest) as m:
            yield m
        return
    from mer.dal.open import open_store

    opened = await open_store(settings)
    try:
        async with _assemble(settings, actor, opened, guest) as m:
            yield m
    finally:
        await opened.close()


@contextlib.asynccontextmanager
async def _assemble(settings: Settings, actor: Actor, store: Store, guest: Guest | None) -> AsyncIterator[Mer]:
    import asyncio
    import datetime as dt
    import time
    import uuid

    from mer.api import Mer
    from mer.audit.log import AuditLog
    from mer.audit.recorder import Recorder
    from mer.content.store import ContentStore
    from mer.core.records import ServerKind
    from mer.core.trace import Trace
    from mer.execution.addresses import Addresses
    from mer.execution.audit import Records
    from mer.execution.choice import Choice
    from mer.execution.drivers import Drivers
    from mer.execution.executor import Executor
    from mer.execution.far_content import FarContent
    from mer.execution.finishes import Finishes
    from mer.execution.journal import Journal
    from mer.execution.leases import LeaseKeeper
    from mer.execution.ping import Ping
    from mer.execution.sealing import Sealing
    from mer.execution.streaming import Streaming
    from mer.execution.workplaces import Workplaces
    from mer.faces.render.files import require_writable, write_trace
    from mer.folders import made_state_folder
    from mer.meal.hosts import MAX_HANDSHAKES, Hosts
    from mer.meal.local import LocalHost
    from mer.meal.pool import Pool
    from mer.meal.secrets import Secrets
    from mer.registry.changes import Changes
    from mer.registry.models import ModelRegistry
    from mer.registry.placements import PlacementRegistry
    from mer.registry.resolve import Resolver
    from mer.registry.servers import ServerRegistry, ensure_local
    from mer.registry.weights import WeightsRegistry
    from mer.setting_kinds import Kind
    from mer.settings import SETTINGS

    def clock() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    monotonic = time.monotonic
    recorder = Recorder(store.access_log, clock=clock)
    resolver = Resolver(store, monotonic=monotonic, only=None if guest is None else guest.models)
    changes = Changes(store, recorder, allowed=settings.allow_changes, changed=resolver.forget)
    servers = ServerRegistry(store, changes, clock=clock)
    # first: what is made in it would make it, open to others
    content = ContentStore(made_state_folder(settings.state_folder) / "content")
    local = LocalHost(
        scratch_folder=settings.state_folder / "scratch",
        cache_folder=settings.state_folder / "cache",
        memory_bytes=settings.shared_memory << 20,
    )
    secrets = Secrets(os.environ, own={each.variable for each in SETTINGS if each.kind is Kind.SECRET})
    handshakes = asyncio.Semaphore(MAX_HANDSHAKES)
    pool = Pool(idle_seconds=settings.idle_seconds, max_workers=settings.max_workers)
    hosts = Hosts(
        {
            ServerKind.LOCAL: lambda _: local,
            ServerKind.SSH: lambda server: _ssh_host(server, settings, secrets, handshakes),
        },
        leaving=pool.leave,
    )
    holder = {"driver": uuid.uuid4().hex, "actor": actor.user, "host": actor.host, "pid": actor.pid}
    workplaces = Workplaces(hosts, content, load_seconds=settings.load_seconds, holder=holder)
    leases = LeaseKeeper(store, recorder, actor=actor)
    finishes = Finishes(recorder, Journal(settings.state_folder / "journal"))
    trace = None
    if settings.trace is not None:
        require_writable(settings.trace)  # now, not after an evening's runs
        trace = Trace()
    audit = Records(recorder=recorder, leases=leases, finishes=finishes, record_model_log=settings.record_model_log)
    executor = Executor(
        resolver=resolver,
        choice=Choice(store.access_log, monotonic=monotonic),
        audit=audit,
        workplaces=workplaces,
        pool=pool,
        run_seconds=settings.run_seconds,
        trace=trace,
        monotonic=monotonic,
    )
    streaming = Streaming(executor, trace)
    sealing = Sealing(executor, streaming, pool, trace)
    async with (
        contextlib.AsyncExitStack() as closing
    ):  # from the last to the first: what runs ends, then its end is recorded
        if trace is not None and settings.trace is not None:
            closing.callback(write_trace, settings.trace, trace)
        closing.push_async_callback(recorder.close)
        closing.push_async_callback(leases.close)
        closing.push_async_callback(audit.close)
        closing.push_async_callback(sealing.close)
        closing.push_async_callback(streaming.close)
        closing.push_async_callback(hosts.aclose)
        closing.push_async_callback(pool.close)
        if not settings.auditor:  # who may only read
            await ensure_local(store, clock=clock)
            await finishes.take_up()
        yield Mer(
            actor=actor,
            store=store,
            content=content,
            changes=changes,
            servers=servers,
            models=ModelRegistry(store, changes, clock=clock),
            weights=WeightsRegistry(store, changes, clock=clock),
            placements=PlacementRegistry(store, changes, clock=clock),
            log=AuditLog(store),
            executor=executor,
            streaming=streaming,
            sealing=sealing,
            ping=Ping(
                store=store,
                resolver=resolver,
                workplaces=workplaces,
                pool=pool,
                hosts=hosts,
                monotonic=monotonic,
            ),
            drivers=Drivers(store),
            addresses=Addresses(
                store=store, hosts=hosts, servers=servers, configured=lambda: _configured_hosts(settings)
            ),
            secrets=secrets,
            far_content=FarContent(store, changes, content, hosts.of),
        )


def _configured_hosts(settings: Settings) -> list[str]:
    from mer.meal.ssh.config import ConfigFiles

    return ConfigFiles.of(settings.ssh_config, home=Path.home()).hosts()


def _ssh_host(server: Server, settings: Settings, secrets: Secrets, handshakes: asyncio.Semaphore) -> Host:
    from mer.meal.ssh.address import Operator, Target
    from mer.meal.ssh.connection import Connection  # asyncssh takes 145 ms: only who leaves this machine waits for it
    from mer.meal.ssh.host import SshHost
    from mer.meal.ssh.known_hosts import Policy

    known = server.parameters
    operator = Operator(
        home=Path.home(),
        secrets=secrets,
        agent=os.environ.get("SSH_AUTH_SOCK"),
        environ=os.environ,
        config=settings.ssh_config,
        policy=Policy(settings.ssh_host_keys),
        own_known_hosts=settings.state_folder / "known_hosts",
    )
    target = Target(
        name=server.name,
        address=known["address"],
        user=known.get("user"),
        port=known.get("port"),
        jump=tuple(known.get("jump", ())),
        password_from=known.get("password_from"),
        operator=operator,
    )
    connection = Connection(target, handshakes)
    if known.get("via") is not None:
        from mer.meal.ssh.lent import LentHost

        return LentHost(server.name, connection)
    return SshHost(server.name, connection, python=known.get("python"))


if __name__ == "__main__":
    main()
