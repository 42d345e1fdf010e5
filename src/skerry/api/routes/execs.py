"""/exec and /containers/{id}/exec."""

import asyncio
import contextlib
import struct

from aiohttp import web

from skerry.api import hijack, versions
from skerry.api.call import Call, no_content
from skerry.api.container_shapes import Json
from skerry.api.errors import message_of, status_of
from skerry.api.router import Route
from skerry.api.routes.containers import size_of
from skerry.base.errors import GuestFault, InvalidInput, SkerryError
from skerry.base.isolation import Attach
from skerry.engine import validation
from skerry.engine.signals import parse_signal

END = 4
"""Docker's streams are 0 to 3."""


async def create(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/exec."""
    wanted = validation.EXEC(await call.body(), "")
    hijack.parse_keys(wanted.get("DetachKeys", ""))
    exec = call.engine.execs.create(call.params["id"], wanted)
    return call.json({"Id": exec.id}, 201)


async def start(call: Call) -> web.StreamResponse:
    """POST /exec/{id}/start."""
    body = validation.EXEC_START(await call.body(), "")
    exec = call.engine.execs.get(call.params["id"])
    terminal: bool | None = body.get("Tty")
    console = body.get("ConsoleSize")
    if body.get("Detach"):
        await call.engine.execs.start(exec, None, terminal=terminal, console=console)
        return web.Response(status=200)
    how = Attach(
        bool(exec.wanted.get("AttachStdin")),
        bool(exec.wanted.get("AttachStdout")),
        bool(exec.wanted.get("AttachStderr")),
    )
    call.engine.execs.check(exec)
    if terminal is not None:
        exec.wanted["Tty"] = terminal
    keys = hijack.parse_keys(exec.wanted.get("DetachKeys", "")) if exec.terminal else b""
    # docker-py reads the head through a buffer and the stream behind its back: output that came
    # together with the head would be lost, so the head goes out before the program starts.
    kind = versions.stream_type(call.version, terminal=exec.terminal)
    client = hijack.take_over(call.request, kind)
    try:
        stream = await call.engine.execs.start(exec, how, terminal=terminal, console=console)
    except (GuestFault, SkerryError) as error:
        return await _tell_failure(client, error, terminal=exec.terminal)
    except BaseException:
        client.transport.close()
        raise
    assert stream is not None

    async def ended() -> None:
        # Clients ask for the exit code as soon as the stream ends: it must be known by then.
        with contextlib.suppress(SkerryError):
            await asyncio.wait_for(asyncio.shield(exec.ended), 10)

    return await hijack.join(client, stream, stdin=how.stdin, keys=keys, after=ended)


async def run(call: Call) -> web.StreamResponse:
    """POST /skerry/containers/{id}/exec: create and start in one, for a client in a hurry.

    After the output comes a frame of the stream `END` whose payload is the exit code in decimal.
    """
    wanted = validation.EXEC(await call.body(), "")
    if wanted.get("Tty"):
        raise InvalidInput("an exec with a terminal has to be created first, to be resized")
    stdin = bool(wanted.get("AttachStdin"))
    how = Attach(stdin, bool(wanted.get("AttachStdout")), bool(wanted.get("AttachStderr")))
    exec = call.engine.execs.create(call.params["id"], wanted, told=False)
    stream = await call.engine.execs.start(exec, how)
    assert stream is not None
    try:
        client = hijack.take_over(call.request, versions.MULTIPLEXED_STREAM)
    except SkerryError:
        await stream.close()
        raise

    async def ended() -> None:
        code = b"%d" % await asyncio.shield(exec.ended)
        await client.write(struct.pack(">BxxxI", END, len(code)) + code)

    return await hijack.join(client, stream, stdin=stdin, keys=b"", after=ended)


async def _tell_failure(
    client: hijack.Hijacked, error: GuestFault | SkerryError, *, terminal: bool
) -> web.StreamResponse:
    """A command that cannot be run: Docker tells it on the stream, the exit code says which."""
    text = f"{message_of(error)}\r\n".encode()
    with contextlib.suppress(ConnectionError):
        await client.write(text if terminal else struct.pack(">BxxxI", 1, len(text)) + text)
    client.transport.close()
    return hijack.finished()


async def inspect(call: Call) -> web.StreamResponse:
    """GET /exec/{id}/json; of ours are `Recovered` (its streams were lost with an earlier engine),
    `ContainerEnded` (it was killed with all the rest) and `Fault` (why it was not started, where
    that is not the command's fault)."""
    exec = call.engine.execs.get(call.params["id"])
    command = exec.wanted.get("Cmd") or [""]
    result: Json = {
        "ID": exec.id,
        "Running": exec.running,
        "ExitCode": exec.code,
        "ProcessConfig": {
            "tty": exec.terminal,
            "entrypoint": command[0],
            "arguments": command[1:],
            "privileged": bool(exec.wanted.get("Privileged")),
        },
        "OpenStdin": bool(exec.wanted.get("AttachStdin")),
        "OpenStderr": bool(exec.wanted.get("AttachStderr")),
        "OpenStdout": bool(exec.wanted.get("AttachStdout")),
        "CanRemove": exec.code is not None,
        "ContainerID": exec.container.id,
        "DetachKeys": exec.wanted.get("DetachKeys", ""),
        "Pid": exec.pid,
    }
    if exec.wanted.get("User"):
        result["ProcessConfig"]["user"] = exec.wanted["User"]
    if exec.recovered:
        result["Recovered"] = True
    if not exec.outlived:
        result["ContainerEnded"] = True
    if exec.fault is not None:
        result["Fault"] = {"Status": status_of(exec.fault), "Message": message_of(exec.fault)}
    return call.json(result)


async def resize(call: Call) -> web.StreamResponse:
    """POST /exec/{id}/resize."""
    size = size_of(call)
    exec = call.engine.execs.get(call.params["id"])
    await call.engine.execs.resize(exec, *size)
    return web.Response(status=200)


async def kill(call: Call) -> web.StreamResponse:
    """POST /skerry/exec/{id}/kill?signal=…: what Docker's API cannot do."""
    exec = call.engine.execs.get(call.params["id"])
    await call.engine.execs.kill(exec, parse_signal(call.text("signal") or "SIGKILL"))
    return no_content()


ROUTES = [
    Route("POST", "/skerry/exec/{id}/kill", kill),
    Route("POST", "/containers/{id}/exec", create),
    Route("POST", "/exec/{id}/start", start, streams=True),
    Route("POST", "/skerry/containers/{id}/exec", run, streams=True),
    Route("GET", "/exec/{id}/json", inspect, reads=True),
    Route("POST", "/exec/{id}/resize", resize),
]
