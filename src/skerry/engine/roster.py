"""All containers by id, name and the beginning of an id."""

from collections.abc import Iterator

from skerry.base.errors import Conflict, InvalidInput, NotFound
from skerry.base.ids import random_name
from skerry.engine.container import Container


class Roster:
    """In memory; the records in the store are the truth."""

    def __init__(self) -> None:
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, str] = {}

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, reference: str) -> Container:
        """By full id, name or unique beginning of an id; NotFound, InvalidInput when ambiguous."""
        if container := self._by_id.get(reference):
            return container
        if known := self._by_name.get(reference.removeprefix("/")):
            return self._by_id[known]
        found = [id for id in self._by_id if id.startswith(reference)] if reference else []
        if len(found) > 1:
            raise InvalidInput(f"Multiple IDs found with provided prefix: {reference}")
        if not found:
            raise NotFound(f"No such container: {reference}")
        return self._by_id[found[0]]

    def get(self, id: str) -> Container | None:
        """By full id."""
        return self._by_id.get(id)

    def has_name(self, name: str) -> bool:
        """Whether a container has this name."""
        return name in self._by_name

    def check_free(self, name: str) -> None:
        """Conflict, in Docker's words, when another container has the name."""
        if holder := self._by_name.get(name):
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container '
                f'"{holder}". You have to remove (or rename) that container to be able to reuse '
                "that name."
            )

    def free_name(self) -> str:
        """A random name that nobody has."""
        name = random_name()
        number = 0
        while name in self._by_name:
            number += 1
            name = f"{random_name()}{number}"
        return name

    def add(self, container: Container) -> None:
        """Make it known."""
        self._by_id[container.id] = container
        self._by_name[container.record.name] = container.id

    def rename(self, container: Container, name: str) -> None:
        """Give it another name, in memory."""
        self._by_name.pop(container.record.name, None)
        container.record.name = name
        self._by_name[name] = container.id

    def discard(self, container: Container) -> None:
        """Forget it."""
        self._by_id.pop(container.id, None)
        if self._by_name.get(container.record.name) == container.id:
            del self._by_name[container.record.name]

    def users_of_image(self, image_id: str) -> list[Container]:
        """Containers made from an image, or with a mount of it."""
        return [each for each in self._by_id.values() if image_id in each.record.images()]
