"""A SurrealDB server for tests: websocket and HTTP in front of the embedded engine's own RPC, in a process of its own.

    python -m tests.support.surreal_server ENGINE [PORT [CERTIFICATE KEY]]

No server binary can be had here. The engine takes requests in CBOR as a server does, and keeps sessions apart (`attach`):
each socket gets one, anonymous at first, so that logins, record users and permissions are the engine's own. Requests and
answers pass as they are, but for the name of the session.

What a real server has and this has not: transactions over several requests, live queries, streamed answers (the client
is not asked for any), a session that ends by itself.

It says `listening PORT`, and ends with its standard input. Its root is ROOT, whose password is PASSWORD.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from typing import Any
from uuid import uuid4

from aiohttp import WSMsgType, web

HOST = "127.0.0.1"
ROOT = "root"
PASSWORD = "correct horse"
HASHED = "$argon2id$v=19$m=8,t=1,p=1$No3zbKKln8AvUbwje02vIQ$r+8n5cWvxtPjWjBwXtF/8dROQOvgUu/WWct0dhsyB6s"
"""The same as argon2id makes it with the least work: a hash of the engine's own takes 50 ms, at each login."""

SMALL_MAP = 0xA0
"""CBOR: a map of up to 23 pairs says how many in its first byte."""


class Server:
    """The engine and its sessions."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def call(self, session: str, request: bytes) -> bytes:
        """Pass a request on, as one of that session."""
        from surrealdb.data.cbor import encode

        if not SMALL_MAP <= request[0] < SMALL_MAP + 23:
            raise ValueError("this is no request")
        named = bytes([request[0] + 1]) + encode("session") + encode(session) + request[1:]
        answer: bytes = await self._engine.execute(named)
        return answer

    async def tell(self, session: str, method: str, *parameters: Any) -> Any:
        """Make a request of our own."""
        from surrealdb.data.cbor import decode, encode

        request = {"id": "0", "method": method, "params": list(parameters)}
        return decode(await self.call(session, encode(request)))

    async def attach(self) -> str:
        """Return a new session, which is nobody's."""
        session = str(uuid4())
        await self.tell(session, "attach")
        return session


async def serve_socket(request: web.Request) -> web.WebSocketResponse:
    """Carry on one conversation."""
    server: Server = request.app[SERVER]
    socket = web.WebSocketResponse(protocols=("cbor",), max_msg_size=0)
    await socket.prepare(request)
    session = await server.attach()

    async def answer(message: bytes) -> None:
        told = await server.call(session, message)
        if not socket.closed:
            await socket.send_bytes(told)

    try:
        async with asyncio.TaskGroup() as answers:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    answers.create_task(answer(message.data))
    finally:
        await server.tell(session, "detach")
    return socket


async def serve_request(request: web.Request) -> web.Response:
    """Answer one request, in a session of its own."""
    server: Server = request.app[SERVER]
    session = await server.attach()
    try:
        if "Surreal-NS" in request.headers:
            await server.tell(session, "use", request.headers["Surreal-NS"], request.headers["Surreal-DB"])
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            await server.tell(session, "authenticate", token)
        told = await server.call(session, await request.read())
    finally:
        await server.tell(session, "detach")
    return web.Response(body=told, content_type="application/cbor")


SERVER = web.AppKey("server", Server)


async def serve(engine_url: str, port: int, tls: ssl.SSLContext | None) -> None:
    from surrealdb import AsyncSurreal
    from surrealdb_embedded import AsyncEmbeddedDB

    first: Any = AsyncSurreal(engine_url)
    await first.connect()
    answer = await first.query_raw(f"DEFINE USER IF NOT EXISTS {ROOT} ON ROOT PASSHASH '{HASHED}' ROLES OWNER")
    assert answer["result"][0]["status"] == "OK", answer
    engine: AsyncEmbeddedDB = first._db
    app = web.Application(client_max_size=1 << 30)
    app[SERVER] = Server(engine)
    app.router.add_get("/rpc", serve_socket)
    app.router.add_post("/rpc", serve_request)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HOST, port, ssl_context=tls, reuse_address=True)
    await site.start()
    print("listening", runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)  # until it is closed
    await first.close()
    os._exit(0)  # the engine's threads abort a process that ends while they do


if __name__ == "__main__":
    engine_url, *rest = sys.argv[1:]
    context = None
    if len(rest) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(rest[1], rest[2])
    asyncio.run(serve(engine_url, int(rest[0]) if rest else 0, context))
