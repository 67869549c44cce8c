"""Serve the gate in front of fake-gcs-server until interrupted."""

import argparse
import asyncio

import aiohttp
from aiohttp import web

from infra.local.events import Events
from infra.local.storage.gate import Gate


async def serve(arguments: argparse.Namespace) -> None:
    """Run the gate until it is cancelled."""
    unlimited = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(
        timeout=unlimited,
        connector=aiohttp.TCPConnector(limit=0),  # a request that waits must not keep another's check waiting
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    ) as session:
        events = Events(session, arguments.events_to)
        gate = Gate(session, arguments.storage, events, frozenset(arguments.watch), not arguments.any_name)
        runner = web.ServerRunner(web.Server(gate.handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
        try:
            await gate.send_orphans()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m infra.local.storage",
        description="Cloud Storage's preconditions and events in front of fake-gcs-server.",
    )
    parser.add_argument("--port", type=int, required=True, help="port of 127.0.0.1 that clients use")
    parser.add_argument("--storage", required=True, metavar="URL", help="address of fake-gcs-server")
    parser.add_argument("--events-to", required=True, metavar="URL", help="where CloudEvents are posted")
    parser.add_argument(
        "--watch", action="append", default=[], metavar="BUCKET", help="a bucket whose objects make events"
    )
    parser.add_argument(
        "--any-name", action="store_true", help="object names need not be file paths (server in memory)"
    )
    try:
        asyncio.run(serve(parser.parse_args()))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
