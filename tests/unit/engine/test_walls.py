"""Which wall a container asks for."""

from typing import Any

import pytest

from skerry.base.errors import InvalidInput, SkerryError, Unsupported
from skerry.base.isolation import KERNEL_ANNOTATION
from skerry.engine.walls import ANNOTATION, CONTAINER, VM, wall_of


@pytest.mark.parametrize(
    ("host", "wall"),
    [
        ({}, CONTAINER),
        ({"Isolation": "", "Runtime": ""}, CONTAINER),
        ({"Isolation": "default", "Runtime": "runc"}, CONTAINER),
        ({"Isolation": "vm"}, VM),
        ({"Isolation": "vm", "Runtime": "skerry"}, VM),
        ({"Runtime": "skerry-vm"}, VM),
        ({"Annotations": {ANNOTATION: "vm"}}, VM),
        ({"Annotations": {KERNEL_ANNOTATION: "/boot/vmlinuz"}}, VM),
        ({"Runtime": "skerry-vm", "Annotations": {ANNOTATION: "vm"}}, VM),
    ],
)
def test_each_way_of_asking(host: dict[str, Any], wall: str) -> None:
    assert wall_of(host) == wall


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ({"Isolation": "hyperv"}, Unsupported),
        ({"Runtime": "kata"}, InvalidInput),
        ({"Annotations": {ANNOTATION: "thick"}}, Unsupported),
        ({"Isolation": "container", "Runtime": "skerry-vm"}, InvalidInput),
        ({"Isolation": "vm", "Annotations": {ANNOTATION: "container"}}, InvalidInput),
        ({"Isolation": "container", "Annotations": {KERNEL_ANNOTATION: "/k"}}, InvalidInput),
    ],
)
def test_nobody_gets_another_wall_than_they_asked_for(
    host: dict[str, Any], error: type[SkerryError]
) -> None:
    with pytest.raises(error):
        wall_of(host)
