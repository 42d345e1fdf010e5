"""Where in the Dockerfile a step stands that went wrong, and which stage may have been meant."""

import difflib
from collections.abc import Iterator

from skerry.base.errors import GuestFault, NotFound, RegistryError, SkerryError
from skerry.build.language.faults import DockerfileFault, excerpt
from skerry.build.language.instructions import Copy, From, Instruction, Run
from skerry.build.reading import Plan


def place(error: SkerryError | GuestFault, plan: Plan, instruction: Instruction | From) -> None:
    """Begin the error's hint with the source around the instruction. A DockerfileFault has it
    already, and one missing image may end several stages with one error."""
    if isinstance(error, DockerfileFault) or error.hint.startswith("Dockerfile:"):
        return
    shown = excerpt(plan.dockerfile.lines, instruction.source.span)
    hints = [shown, *([error.hint] if error.hint else [])]
    if isinstance(error, NotFound | RegistryError):
        known = [stage.base.name for stage in plan.dockerfile.stages if stage.base.name]
        for name in _images(instruction):
            near = difflib.get_close_matches(name[:64].lower(), known, 1)
            if near and near[0] != name.lower():
                hints.append(f"{name[:64]} is no stage; did you mean {near[0]}?")
    error.hint = "\n".join(hints)


def _images(instruction: Instruction | From) -> Iterator[str]:
    """What the instruction names that may be a stage or an image."""
    if isinstance(instruction, From):
        yield instruction.base
    elif isinstance(instruction, Copy) and instruction.from_:
        yield instruction.from_
    elif isinstance(instruction, Run):
        for mount in instruction.mounts:
            for part in mount.split(","):
                key, _, value = part.strip().partition("=")
                if key.lower() == "from" and value:
                    yield value
