# SPDX-License-Identifier: GPL-3.0-or-later
"""Serve Opstage over TLS on port 8443, as a proxy in front of it does.

Arguments: a PEM file with a certificate and its key, and a log, which gets a line for each connection: method, path and
status of its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys

OPSTAGE = ("127.0.0.1", 8080)
PORT = 8443


async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> list[str]:
    """Hand on what comes until it ends; returns the words of its first line."""
    first = b""
    with contextlib.suppress(ConnectionError):
        while piece := await source.read(1 << 16):
            first = first or piece
            target.write(piece)
            await target.drain()
    return first.partition(b"\r\n")[0].decode("ascii", "replace").split()


async def main() -> None:
    """Serve until somebody ends it."""
    certificate, log = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client."""
        inside, outward = await asyncio.open_connection(*OPSTAGE)
        asking = asyncio.ensure_future(carry(reader, outward))
        answered = await carry(inside, writer)
        writer.close()
        asked = await asking
        outward.close()
        with open(log, "a", encoding="ascii") as stream:
            stream.write(" ".join([*asked[:2], *answered[1:2]]) + "\n")

    server = await asyncio.start_server(serve, port=PORT, ssl=context)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
