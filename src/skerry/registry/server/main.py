"""`skerry registry serve` and `skerry registry gc`: read the options, wire, run."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from skerry.base.errors import SkerryError
from skerry.base.settings import default_settings
from skerry.registry.server import listening
from skerry.registry.server.access import Htpasswd
from skerry.registry.server.application import Application
from skerry.registry.server.call import Options
from skerry.registry.server.directory import Directory
from skerry.registry.server.proxy import Upstream
from skerry.registry.server.storage import Limits

log = logging.getLogger("skerry.registry")
GC_SECONDS = 3600.0
SWEEP_SECONDS = 600.0
"""How often uploads that were given up are looked for, with and without `--gc`."""
LEAST_GRACE = 120.0
"""Beside a running server: longer than a claim may lag behind (`directory`)."""


def parser() -> argparse.ArgumentParser:
    """The options of both commands."""
    result = argparse.ArgumentParser(prog="skerry registry", description="An OCI registry.")
    result.add_argument("--root", default="", help=argparse.SUPPRESS)
    commands = result.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve a registry in the foreground")
    collect = commands.add_parser("gc", help="collect garbage while no server runs")
    for each in (serve, collect):
        each.add_argument("--storage", default="", metavar="DIR", help="default: ROOT/registry")
        each.add_argument(
            "--gc-grace",
            type=float,
            metavar="SECONDS",
            help="what was pushed or asked for since stays (serve: 3600, gc: 0)",
        )
        each.add_argument(
            "--gc-untagged",
            action="store_true",
            help="manifests go too that no tag, index or referrer leads to",
        )
    serve.add_argument("--listen", default="127.0.0.1:5000", metavar="HOST:PORT")
    serve.add_argument("--htpasswd", default="", metavar="FILE", help="bcrypt entries")
    serve.add_argument("--tls-cert", default="", metavar="FILE", help="PEM, with the chain")
    serve.add_argument("--tls-key", default="", metavar="FILE", help="PEM")
    serve.add_argument("--read-only", action="store_true", help="take no pushes, delete nothing")
    serve.add_argument("--no-delete", action="store_true", help="take pushes, delete nothing")
    serve.add_argument("--no-page", action="store_true", help="no page for browsers")
    serve.add_argument(
        "--proxy", default="", metavar="REGISTRY", help="be a pull-through cache of this registry"
    )
    serve.add_argument(
        "--gc",
        type=float,
        nargs="?",
        const=GC_SECONDS,
        default=0.0,
        metavar="SECONDS",
        help=f"collect garbage every so often ({GC_SECONDS:.0f}); SIGUSR1 does it at once",
    )
    serve.add_argument("--max-blob", type=int, default=Limits().blob, metavar="BYTES")
    serve.add_argument("--max-uploads", type=int, default=Limits().uploads, metavar="N")
    serve.add_argument(
        "--no-sync",
        action="store_true",
        help="faster: what was acknowledged outlives a crash of the server, not a power cut",
    )
    serve.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return result


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, or 1 when it cannot be done."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=getattr(options, "log_level", "info").upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    if getattr(options, "log_level", "") != "debug":
        # What clients send that is no HTTP; our own faults are logged by the application.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    try:
        if options.command == "gc":
            return _collect(options)
        asyncio.run(_serve(options))
    except SkerryError as error:
        sys.stderr.write(f"skerry registry: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _folder(options: argparse.Namespace) -> str:
    root = default_settings(options.root or None).root
    return str(options.storage or os.path.join(root, "registry"))


def _collect(options: argparse.Namespace) -> int:
    storage = Directory(_folder(options))
    try:
        found = storage.collect(grace=options.gc_grace or 0.0, untagged=options.gc_untagged)
    finally:
        storage.close()
    sys.stdout.write(
        f"removed {found.blobs} blobs ({found.bytes} bytes), {found.links} links, "
        f"{found.manifests} manifests, {found.uploads} uploads\n"
    )
    return 0


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    now = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, now.set)
    grace = options.gc_grace if options.gc_grace is not None else Limits().grace
    limits = Limits(
        blob=options.max_blob, uploads=options.max_uploads, grace=max(grace, LEAST_GRACE)
    )
    context = listening.tls(options.tls_cert, options.tls_key)
    users = Htpasswd(options.htpasswd) if options.htpasswd else None
    storage = Directory(_folder(options), limits, sync=not options.no_sync)
    origin = Upstream(options.proxy, storage, root=options.root) if options.proxy else None
    application = Application(
        storage,
        Options(options.read_only, not options.no_delete, not options.no_page),
        users=users,
        origin=origin,
    )
    door = listening.Door(application, limits)
    server = await door.open(listening.listen(options.listen), context)
    _say(options, server, storage.root, bool(context))
    sweeper = asyncio.ensure_future(_sweep(application, options, limits.grace, now))
    try:
        await stop.wait()
    finally:
        log.info("stopping")
        server.close()
        sweeper.cancel()
        await door.close()
        if origin is not None:
            await origin.close()
        application.close()
        storage.close()


def _say(options: argparse.Namespace, server: asyncio.Server, root: str, encrypted: bool) -> None:
    host, port = server.sockets[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if encrypted else "http"
    log.info("listening on %s://%s:%d, storage %s", scheme, shown, port, root)
    if not host.startswith("127.") and host != "::1":
        if not options.htpasswd and not options.read_only:
            log.warning("anybody who reaches this address may push: give --htpasswd or --read-only")
        if options.htpasswd and not encrypted:
            log.warning("passwords travel in the clear: give --tls-cert and --tls-key")


async def _sweep(
    application: Application, options: argparse.Namespace, grace: float, now: asyncio.Event
) -> None:
    """Collections by the clock and on demand; abandoned uploads always."""
    loop = asyncio.get_running_loop()
    every = options.gc or SWEEP_SECONDS
    while True:
        asked = False
        try:
            async with asyncio.timeout(every):
                await now.wait()
            asked = True
            now.clear()
        except TimeoutError:
            asked = False
        if asked or options.gc:
            try:
                await application.collect(grace=grace, untagged=options.gc_untagged)
            except (SkerryError, OSError) as error:
                log.error("collection: %s", error)
        else:
            await loop.run_in_executor(None, application.storage.cancel_stale)
