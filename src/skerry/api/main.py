"""`skerry engine`: read the options, wire the objects, serve until told to stop."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

from skerry.api.server import Api, serve
from skerry.base.errors import SkerryError
from skerry.base.settings import Settings, default_settings
from skerry.engine import instance
from skerry.engine.engine import Engine

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
        "-H", "--host", metavar="unix://PATH", help="where to listen (RUN_ROOT/skerry.sock)"
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
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        settings = default_settings(options.root, options.run_root, options.host)
        asyncio.run(run(settings, idle_exit=options.idle_exit))
    except SkerryError as error:
        sys.stderr.write(f"skerry engine: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        sys.stderr.write(f"skerry engine: internal error: {type(error).__name__}: {error}\n")
        sys.stderr.write("hint: --log-level debug shows where; please report it\n")
        return 1
    return 0


async def run(settings: Settings, *, idle_exit: float = 0.0) -> None:
    """One engine, from its lock to its last word."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Handed over by the service manager, or made once the root's lock is ours.
    sockets = instance.inherited_sockets()
    own = not sockets
    async with Engine(settings) as engine:
        if own:
            sockets = [instance.listen(settings.socket_path)]
        api, runner = await serve(engine, sockets)
        log.info("listening on %s, root %s", settings.host, settings.root)
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
            await runner.cleanup()


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
