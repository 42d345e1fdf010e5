"""The pull-through cache, in front of a server of ours."""

import asyncio
from typing import Any

from tests.unit.registry.server.conftest import Peer

from skerry.base.digests import sha256
from skerry.registry.server.application import Application
from skerry.registry.server.directory import Directory
from skerry.registry.server.listening import Door, listen
from skerry.registry.server.proxy import Upstream
from skerry.registry.server.storage import Limits


async def test_what_was_pulled_once_is_kept(tmp_path: Any, peer: Peer, monkeypatch: Any) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    digest = await peer.push_image("a/b", "t", salt="x" * 3000)
    storage = Directory(str(tmp_path / "cache"), sync=False)
    origin = Upstream(peer.url, storage)
    application = Application(storage, origin=origin)
    door = Door(application, Limits())
    sock = listen("127.0.0.1:0")
    server = await door.open(sock)
    cache = Peer(storage, peer.session, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        found = await cache("GET", "/v2/a/b/manifests/t")
        assert (found.status, sha256(found.body)) == (200, digest)
        layer = found.json["layers"][0]["digest"]
        both = await asyncio.gather(
            *(cache("GET", f"/v2/a/b/blobs/{layer}") for _ in range(4)),
        )
        assert {sha256(each.body) for each in both} == {layer}
        assert (await cache("GET", "/v2/a/b/manifests/none")).code == "MANIFEST_UNKNOWN"
        assert (await cache("POST", "/v2/a/b/blobs/uploads/")).code == "UNSUPPORTED"
        newer = await peer.push_image("a/b", "t", salt="newer")
        head = await cache("HEAD", "/v2/a/b/manifests/t")
        assert head.headers["Docker-Content-Digest"] == newer
        # By digest nothing is asked for again, whatever became of it there.
        await peer("DELETE", f"/v2/a/b/blobs/{layer}")
        assert (await cache("GET", f"/v2/a/b/blobs/{layer}")).status == 200
        assert (await cache("GET", f"/v2/a/b/manifests/{digest}")).status == 200
    finally:
        server.close()
        await door.close()
        await origin.close()
        application.close()
        storage.close()
