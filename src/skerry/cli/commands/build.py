"""`build`: an image from a Dockerfile, shown while it is made."""

from __future__ import annotations

import os

from skerry.base.errors import InvalidInput, SkerryError
from skerry.base.hosts import docker_config
from skerry.cli import build_options, build_progress
from skerry.cli.build_contexts import gather
from skerry.cli.build_view import LOG_LINES, Step, View, place_of, seconds
from skerry.cli.context import Context, err, out, report, terminal, visible
from skerry.cli.options import Command, Parsed
from skerry.sdk import wire
from skerry.sdk.builds import Build, BuildFailed, error_of
from skerry.sdk.client import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def build(context: Context, parsed: Parsed) -> int:
    """The exit code is that of the program that failed, as `docker build`'s."""
    step = parsed.text("shell-at")
    if step and not parsed.arguments:
        return _recorded_shell(context, parsed, step)
    if not parsed.arguments:
        from skerry.cli.options import UsageError

        raise UsageError("'skerry build' requires 1 argument", exit_code=1)
    return _Run(context, parsed).run()


class _Run:
    """One build, from the command line to what it leaves here."""

    def __init__(self, context: Context, parsed: Parsed) -> None:
        self._context = context
        self._parsed = parsed
        self._targets = build_options.targets(parsed)
        self._caches = build_options.Caches(parsed)
        self._agents = build_options.agents(parsed.many("ssh"))
        self._contexts = gather(parsed, parsed.arguments[0])
        for name, folder in self._caches.sent.items():
            from skerry.sdk.packing import pack

            self._contexts.archives[f"cache:{name}"] = pack(folder)
        self._only_shell = bool(parsed.text("shell-at"))
        self._quiet = parsed.on("quiet") or self._only_shell or parsed.on("list-steps")
        json = parsed.text("progress") in ("json", "rawjson")
        to_stdout = json and not any(each.place == "-" for each in self._targets)
        self._kind = "quiet" if parsed.on("check") and not json else parsed.text("progress")
        self._fd = 1 if to_stdout else 2

    def _body(self) -> dict[str, Any]:
        body = build_options.body_of(self._parsed) | self._contexts.body
        body["Secrets"] = build_options.secrets(self._parsed.many("secret"))
        body["SSH"] = list(self._agents)
        if self._agents:
            body["KnownHosts"] = build_options.known_hosts()
        body["Outputs"] = [each.body for each in self._targets]
        body["CacheFrom"], body["CacheTo"] = self._caches.sources, self._caches.targets
        if self._only_shell:
            body["ListSteps"] = True
        auth = _auth()
        return body | ({"Auth": auth} if auth else {})

    def run(self) -> int:
        with Build(self._context.client, self._body()) as build:
            for name, archive in self._contexts.archives.items():
                build.send(name, archive)
            # Drawn from here on: what goes wrong before has no progress.
            shown = build_progress.make(self._kind, self._fd, quiet=self._quiet)
            try:
                for event in build.events():
                    shown.take(event)
                    if event.get("kind") == "ssh":
                        self._forward(build, event)
            finally:
                shown.close()
            if shown.view.error is not None:
                return self._failed(build, shown)
            return self._done(build, shown.view)

    def _forward(self, build: Build, event: dict[str, Any]) -> None:
        agent = self._agents.get(str(event.get("id") or "default"))
        if agent:
            build.forward(int(event["connection"]), agent)

    def _failed(self, build: Build, shown: build_progress.Shown) -> int:
        view = shown.view
        error = error_of(view.error or {})
        code = 1
        if isinstance(error, BuildFailed):
            code = error.exit_code
            step = view.steps.get(error.step)
            if step is not None and not shown.tells_errors:
                _show_log(step)
            report(error)
            if self._parsed.on("shell-on-failure"):
                self._shell(build, step)
        else:
            if self._in_words():
                _warn(view)
            report(error)
        return code

    def _shell(self, build: Build, step: Step | None) -> None:
        if not terminal(0):
            err("skerry: no shell is opened: standard input is no terminal")
            return
        where = f" of {step.label}" if step is not None else ""
        err(f"A shell in the state{where}; leave it with `exit`.")
        join_shell(self._context, self._parsed, build.shell())

    def _done(self, build: Build, view: View) -> int:
        if self._parsed.on("check"):
            return _checked(view)
        if self._only_shell:
            step = found_step(view, self._parsed.text("shell-at"))
            return _recorded_shell(self._context, self._parsed, step.key)
        if self._parsed.on("list-steps"):
            _list(view)
            return 0
        result = view.result
        if result is None:
            raise InvalidInput("the engine ended the build without a result")
        for number, target in enumerate(self._targets):
            if target.body["Type"] in build_options.PACKED:
                _take(build, number, target.place, unpack=target.unpack, cache=False)
        for number, folder in self._caches.taken.items():
            _take(build, number, folder, unpack=True, cache=True)
        self._leave(str(result.get("image") or ""), view)
        return 0

    def _in_words(self) -> bool:
        return not self._quiet and self._kind not in ("json", "rawjson", "quiet")

    def _leave(self, image: str, view: View) -> None:
        if self._parsed.text("iidfile"):
            _write(self._parsed.text("iidfile"), image)
        names = [str(each) for each in (view.result or {}).get("tags") or ()]
        if self._parsed.text("metadata-file"):
            about = {"containerimage.config.digest": image, "image.name": ",".join(names)}
            _write(self._parsed.text("metadata-file"), wire.pretty(about) + "\n")
        if self._parsed.on("quiet"):
            out(image)
        elif self._in_words():
            ended, _, cached = view.counts()
            spent = seconds(float((view.result or {}).get("seconds") or 0))
            if image:
                err(f"built {image}{''.join(f' {visible(name)}' for name in names)}")
            err(f"{ended} steps in {spent}, {cached} from the cache")
            _warn(view)


def _warn(view: View) -> None:
    for each in view.warnings:
        where = f" (line {each['line']})" if each.get("line") else ""
        err(visible(f"warning: {each.get('rule')}: {each.get('text')}{where}"))


def _show_log(step: Step) -> None:
    err(f"------\n > {step.label}:")
    for line in (step.log + step.flush())[-LOG_LINES:]:
        err(line)
    err("------")


def _checked(view: View) -> int:
    """As `docker build --check`: 1 when something was found."""
    for each in view.warnings:
        out(visible(f"WARNING: {each.get('rule')}"))
        out(visible(str(each.get("text"))))
        for line in str(each.get("excerpt") or "").split("\n"):
            out(visible(line))
        out("")
    count = len(view.warnings)
    if not count:
        out("Check complete, no warnings found.")
        return 0
    out(f"Check complete, {count} warning{'s' * (count > 1)} {'have' if count > 1 else 'has'} "
        "been found!")  # fmt: skip
    return 1


def _list(view: View) -> None:
    from skerry.cli.table import Listing

    listing = Listing(
        {
            "Step": "STEP",
            "Line": "LINE",
            "Stage": "STAGE",
            "Key": "KEY",
            "State": "STATE",
            "Instruction": "INSTRUCTION",
        },
        "Step Line Stage Key State Instruction",
        "Key",
    )
    rows = [
        {
            "Step": step.name,
            "Line": str(step.line or ""),
            "Stage": step.stage,
            "Key": step.key,
            "State": step.state if step.state in ("cached", "missing") else "",
            "Instruction": step.text[:80],
        }
        for step in sorted(view.steps.values(), key=lambda step: place_of(step.name))
    ]
    listing.show(rows, form="", quiet=False)


def found_step(view: View, wanted: str) -> Step:
    """The step of a name (`1.3`), a line of the file, or a key's beginning; the nearest one above
    it that has a state of its own. InvalidInput."""
    steps = sorted(view.steps.values(), key=lambda step: place_of(step.name))
    at = -1
    for number, step in enumerate(steps):
        same_line = wanted.isdigit() and len(wanted) < 8 and step.line == int(wanted)
        if step.name == wanted or same_line or (len(wanted) >= 4 and step.key.startswith(wanted)):
            at = number
            break
    if at < 0:
        raise InvalidInput(
            f"no such step: {wanted:.40}", hint="`skerry build --list-steps` shows all"
        )
    stage = steps[at].name.partition(".")[0]
    above = [step for step in steps[: at + 1] if step.name.partition(".")[0] == stage]
    for step in above:
        if step.state == "missing":
            raise InvalidInput(f"step {step.name} is not in the cache: build it first")
    for step in reversed(above):
        if step.key:
            return step
    raise InvalidInput(
        f"no step of stage {steps[at].stage} up to {steps[at].name} has a state of its own",
        hint="run its base: skerry run -it …",
    )


def _recorded_shell(context: Context, parsed: Parsed, key: str) -> int:
    made = context.client.post("/skerry/build/shell" + query(step=key))["Id"]
    return join_shell(context, parsed, made)


def join_shell(context: Context, parsed: Parsed, container: str) -> int:
    """Attach to a container that waits, then start it; it goes at its end."""
    from skerry.cli.commands.attach import join

    def start() -> None:
        context.client.post(f"/containers/{container}/start")

    try:
        return join(context, parsed, container, tty=True, stdin=True, start=start, removed=True)
    except SkerryError:
        context.client.delete(f"/containers/{container}{query(force=True)}")
        raise


def _take(build: Build, number: int, place: str, *, unpack: bool, cache: bool) -> None:
    """A result to where the user wants it."""
    chunks = build.output(number, cache=cache)
    if not unpack:
        from skerry.cli.commands.archives import save_chunks

        if place == "-" and terminal(1):
            raise InvalidInput("refusing to write an archive to a terminal")
        save_chunks(chunks, place)
        return
    from skerry.sdk.unpack import ChunkFile, Unpacker

    try:
        os.makedirs(place, exist_ok=True)
        unpacker = Unpacker(place)
    except OSError as error:
        raise InvalidInput(f"cannot write {place}: {error.strerror}") from None
    try:
        unpacker.unpack(ChunkFile(chunks), base="", name="")
    finally:
        unpacker.close()


def _write(path: str, text: str) -> None:
    from skerry.cli.commands.archives import save_chunks

    save_chunks(iter([text.encode()]), path)


def _auth() -> dict[str, Any]:
    """What Docker's configuration knows of registries, for the engine's pulls and pushes."""
    # Without the file, which is the rule, nothing of this is imported.
    if not os.path.lexists(docker_config()):
        return {}
    from skerry.cli.registry_auth import auth_config
    from skerry.registry.auth import Credentials

    known = Credentials()
    found = {}
    for registry in known.registries():
        credential = known.get(registry)
        if credential:
            found[registry] = auth_config(credential, registry)
    return found


COMMANDS = {
    "build": Command(
        build,
        "Build an image from a Dockerfile",
        "CONTEXT",
        build_options.OPTIONS,
        most=1,
        complete="folders",
        text="CONTEXT is a folder, a tar archive, a git or http URL, or - for standard input "
        "(an archive, or a Dockerfile alone).",
    )
}
