"""`skerry engine`: read the options, wire the objects, serve until told to stop."""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from functools import partial

from aiohttp import web

from skerry.api import tls
from skerry.api.server import Api, serve
from skerry.base.errors import InvalidInput, SkerryError
from skerry.base.settings import Settings, default_settings
from skerry.engine import instance, network_settings
from skerry.engine.engine import Engine
from skerry.engine.spec import DEFAULT_PATH

LEVELS = ("debug", "info", "warning", "error")
log = logging.getLogger("skerry")


def parser() -> argparse.ArgumentParser:
    """The options of `skerry engine`."""
    result = argparse.ArgumentParser(
        prog="skerry engine",
        description="Run the engine in the foreground. Containers go on running when it ends.",
    )
    result.add_argument("--root", metavar="DIR", help="state that survives a reboot")
    result.add_argument("--run-root", metavar="DIR", help="sockets, pids, running containers")
    result.add_argument(
        *("-H", "--host"),
        metavar="unix://PATH|tcp://ADDRESS:PORT",
        action="append",
        default=[],
        help="where to listen (RUN_ROOT/skerry.sock); tcp:// comes beside it, once or more",
    )
    result.add_argument(
        "--tlsverify", action="store_true", help="TCP clients need a certificate of --tlscacert"
    )
    result.add_argument("--tlscacert", metavar="FILE", default="", help="who signs clients (PEM)")
    result.add_argument("--tlscert", metavar="FILE", default="", help="the engine's certificate")
    result.add_argument("--tlskey", metavar="FILE", default="", help="the engine's key")
    result.add_argument(
        "--plain-tcp",
        action="store_true",
        help="TCP without TLS: whoever reaches the port is root on this host",
    )
    result.add_argument(
        "--publish-default-address",
        metavar="IP",
        default="",
        help="where ports are published that name no address (engine.json, else all addresses)",
    )
    result.add_argument("--log-level", choices=LEVELS, default="info", help="default: info")
    result.add_argument(
        "--idle-exit",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="end after so many seconds without a request and without a running container",
    )
    return result


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT. The exit status: 0, or 1 when the engine cannot start."""
    options = parser().parse_args(arguments)
    # What is made for containers has the modes that it is made with, whoever started the engine.
    os.umask(0o022)
    if not os.environ.get("PATH"):
        os.environ["PATH"] = DEFAULT_PATH.removeprefix("PATH=")
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        remote = [host for host in options.host if host.startswith("tcp://")]
        local = [host for host in options.host if host not in remote]
        settings = default_settings(options.root, options.run_root, (local or [None])[-1])
        context = _security(options, remote)
        networks = network_settings.load(settings.root, options.publish_default_address)
        asyncio.run(run(settings, remote, context, networks, idle_exit=options.idle_exit))
    except SkerryError as error:
        sys.stderr.write(f"skerry engine: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        log.debug("refused", exc_info=True)
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"skerry engine: cannot start{where}: {error.strerror or error}\n")
        return 1
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        sys.stderr.write(f"skerry engine: internal error: {type(error).__name__}: {error}\n")
        sys.stderr.write("hint: --log-level debug shows where; please report it\n")
        return 1
    return 0


def _security(options: argparse.Namespace, remote: Sequence[str]) -> ssl.SSLContext | None:
    """How TCP clients are told apart; InvalidInput when nothing would."""
    for host in remote:
        tls.parse_address(host)
    if options.tlsverify:
        for name in ("tlscacert", "tlscert", "tlskey"):
            if not getattr(options, name):
                raise InvalidInput(f"--tlsverify needs --{name}")
        return tls.mutual(options.tlscacert, options.tlscert, options.tlskey)
    if remote and not options.plain_tcp:
        raise InvalidInput(
            f"will not listen on {remote[0]} without TLS: whoever reaches it would be root",
            hint="use --tlsverify --tlscacert --tlscert --tlskey, or say --plain-tcp",
        )
    return None


async def run(
    settings: Settings,
    remote: Sequence[str] = (),
    context: ssl.SSLContext | None = None,
    networks: network_settings.NetworkSettings | None = None,
    *,
    idle_exit: float = 0.0,
) -> None:
    """One engine, from its lock to its last word. `remote` are the `tcp://` hosts."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # What modules consist of stays: looking it over takes 25 ms, in which nobody is answered.
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Handed over by the service manager, or made once the root's lock is ours.
    sockets = instance.inherited_sockets()
    own = not sockets
    async with Engine(settings, network_settings=networks) as engine:
        if own:
            sockets = [instance.listen(settings.socket_path)]
        over_tcp = [tls.listen(host) for host in remote]
        plain = [*sockets, *over_tcp] if context is None else sockets
        api, runner = await serve(engine, plain)
        terminators = []
        if context is not None:
            terminators = [
                tls.Terminator(sock, context, partial(_give, runner)) for sock in over_tcp
            ]
        local = [settings.host] if own else [f"unix://{sock.getsockname()}" for sock in sockets]
        log.info("listening on %s, root %s", ", ".join([*local, *remote]), settings.root)
        instance.notify(f"READY=1\nMAINPID={os.getpid()}")
        watch = asyncio.ensure_future(_idle(engine, api, idle_exit, stop))
        try:
            await stop.wait()
        finally:
            log.info("stopping; containers go on running")
            instance.notify("STOPPING=1")
            watch.cancel()
            if own:
                # Nobody shall connect to an engine that no longer answers.
                with contextlib.suppress(OSError):
                    os.unlink(settings.socket_path)
            for each in terminators:
                await each.close()
            await runner.cleanup()


async def _give(runner: web.ServerRunner, sock: socket.socket) -> None:
    """A connection that was not accepted by the HTTP server itself."""
    server = runner.server
    if server is None:
        sock.close()
        return
    await asyncio.get_running_loop().connect_accepted_socket(server, sock)


async def _idle(engine: Engine, api: Api, seconds: float, stop: asyncio.Event) -> None:
    """End an engine that was started on demand and is not needed any more."""
    if seconds <= 0:
        return
    loop = asyncio.get_running_loop()
    api.last = loop.time()
    while True:
        left = api.last + seconds - loop.time()
        busy = api.active > 0 or any(each.running for each in engine.roster)
        if left <= 0 and not busy:
            stop.set()
            return
        await asyncio.sleep(max(left, min(seconds, 1.0)))
