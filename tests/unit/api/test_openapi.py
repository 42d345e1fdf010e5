"""The OpenAPI document says what the code does."""

from typing import Any

from skerry.api import openapi
from skerry.api.server import all_routes


def document() -> dict[str, Any]:
    return openapi.document(all_routes(), "0")


def test_it_knows_what_the_handlers_read() -> None:
    paths = document()["paths"]
    logs = {each["name"]: each for each in paths["/containers/{id}/logs"]["get"]["parameters"]}
    assert {"id", "stdout", "stderr", "tail", "since", "until", "follow", "timestamps"} <= set(logs)
    assert logs["follow"]["schema"] == {"type": "boolean"}
    body = paths["/containers/create"]["post"]["requestBody"]["content"]["application/json"]
    properties = body["schema"]["properties"]
    assert properties["Tty"] == {"type": "boolean"}
    assert properties["HostConfig"]["properties"]["Memory"]["minimum"] == 0
    update = paths["/containers/{id}/update"]["post"]["requestBody"]["content"]["application/json"]
    assert "CpuShares" in update["schema"]["properties"]
    assert "binary" in str(paths["/images/load"]["post"]["requestBody"])
    listed = paths["/volumes"]["get"]["parameters"]
    assert [each["name"] for each in listed] == ["filters"]


def test_every_route_has_its_own_operation() -> None:
    operations = [each for path in document()["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names))
    assert all(each["summary"] for each in operations)
