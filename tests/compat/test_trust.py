"""Signing, verifying and the pull policy, against Debian's `docker-registry`."""

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.transfer import DebianRegistry

from skerry.base.digests import sha256
from skerry.base.errors import Forbidden, InvalidInput
from skerry.base.oci_image import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    encode,
    parse_manifest,
)
from skerry.base.references import parse_reference
from skerry.engine.events import Events
from skerry.engine.sbom import Sbom
from skerry.engine.signing import Signing
from skerry.engine.transfer import Transfer
from skerry.store import Store, open_store
from skerry.trust import keys
from skerry.trust.payload import encode_payload
from skerry.trust.signatures import decode_signature, make_signature, signature_tag

pytestmark = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="needs the Debian package docker-registry"
)


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """The address of a registry of our own."""
    with DebianRegistry() as running:
        yield running.name


class Trust:
    """An engine's services over a root of their own, and a key."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Store = open_store(str(root))
        self.transfer = Transfer(self.store, Events(), str(root))
        self.signing = Signing(self.transfer, str(root))
        self.signing.gate._files = (str(root / "policy.json"),)
        self.private, public = keys.generate()
        (root / "team.pub").write_bytes(public)
        self.key = keys.load_public(public, "team.pub")

    def policy(self, rule: dict[str, object], scope: str = "") -> None:
        document: dict[str, object] = {"version": 1}
        document |= {"scopes": {scope: rule}} if scope else {"default": rule}
        (self.root / "policy.json").write_text(json.dumps(document))

    async def sign(self, name: str, about: str = "") -> str:
        subject = await self.signing.resolve(name)
        payload = encode_payload(parse_reference(about or name), subject.digest, {"by": "test"})
        value = keys.sign(keys.load_private(self.private), payload)
        await self.signing.attach(name, make_signature(payload, value))
        return subject.digest

    async def pull(self, name: str) -> list[str]:
        return [str(line.get("status")) async for line in self.transfer.pull(name)]

    async def publish(self, name: str) -> str:
        """A small image of one file."""
        reference = parse_reference(name)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo(reference.repository.replace("/", "-"))
            tar.addfile(info)
        layer = out.getvalue()
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]},
            }
        ).encode()
        about = Descriptor(OCI_CONFIG, sha256(config), len(config))
        layers = [Descriptor(OCI_LAYER, sha256(layer), len(layer))]
        async with self.transfer.client(reference.registry) as client:
            for descriptor, data in ((about, config), (layers[0], layer)):
                await client.push_blob(
                    reference.repository,
                    descriptor,
                    lambda start, data=data: io.BytesIO(data[start:]),
                )
            manifest = encode(Manifest(2, about, layers, OCI_MANIFEST))
            return await client.put_manifest(
                reference.repository, reference.tag, manifest, OCI_MANIFEST
            )


@pytest.fixture
def trust(tmp_path: Path) -> Iterator[Trust]:
    made = Trust(tmp_path)
    yield made
    made.store.close()


async def test_signed_and_verified(registry: str, trust: Trust) -> None:
    name = f"{registry}/signed/app:1"
    digest = await trust.publish(name)
    with pytest.raises(Forbidden, match="there is no signature"):
        await trust.signing.verify(name, [trust.key])
    assert await trust.sign(name) == digest
    assert await trust.sign(name) == digest
    found, good = await trust.signing.verify(name, [trust.key])
    assert found == digest and [each.payload.annotations for each in good] == [{"by": "test"}]
    stranger = keys.load_public(keys.generate()[1], "stranger.pub")
    with pytest.raises(Forbidden, match=r"stranger\.pub.*trusted key"):
        await trust.signing.verify(name, [stranger])


async def test_signatures_stand_below_the_tag_and_as_referrers(registry: str, trust: Trust) -> None:
    name = f"{registry}/both/app:1"
    digest = await trust.publish(name)
    await trust.sign(name)
    async with trust.transfer.client(registry) as client:
        assert await client.resolve("both/app", signature_tag(digest))
        assert len(await client.referrers("both/app", digest)) == 1
        # Debian's registry cannot delete by tag: what the tag says is replaced by an image.
        other = await client.manifest("both/app", digest)
        await client.put_manifest("both/app", signature_tag(digest), other.data, other.media_type)
    _, good = await trust.signing.verify(name, [trust.key])
    assert len(good) == 1, "the referrer alone is enough"


async def test_openssl_agrees(registry: str, trust: Trust, tmp_path: Path) -> None:
    """The signature is over the payload as it lies in the registry."""
    name = f"{registry}/openssl/app:1"
    digest = await trust.publish(name)
    await trust.sign(name)
    skopeo = ["skopeo", "inspect", "--raw", "--tls-verify=false"]
    raw = subprocess.run(
        [*skopeo, f"docker://{registry}/openssl/app:{signature_tag(digest)}"],
        capture_output=True,
        check=True,
    ).stdout
    layer = json.loads(raw)["layers"][0]
    async with trust.transfer.client(registry) as client:
        payload = await client.read_blob(
            "openssl/app", Descriptor(layer["mediaType"], layer["digest"], layer["size"])
        )
    (tmp_path / "payload").write_bytes(payload)
    value = decode_signature(layer["annotations"]["dev.cosignproject.cosign/signature"])
    (tmp_path / "value").write_bytes(value)
    command = [
        "openssl",
        "dgst",
        "-sha256",
        "-verify",
        "team.pub",
        "-signature",
        "value",
        "payload",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Verified OK", done.stderr


async def test_a_bill_of_materials_beside_the_image(registry: str, trust: Trust) -> None:
    name = f"{registry}/bill/app:1"
    digest = await trust.publish(name)
    await trust.pull(name)
    service = Sbom(trust.store, trust.transfer)
    attached = await service.attach(name, "spdx-json")
    assert await service.attach(name, "spdx-json") == attached
    async with trust.transfer.client(registry) as client:
        (found,) = await client.referrers("bill/app", digest, "application/spdx+json")
        assert found.digest == attached
        manifest = parse_manifest((await client.manifest("bill/app", attached)).data)
        data = await client.read_blob("bill/app", manifest.layers[0])
    assert data == await service.make(name)
    await trust.publish(f"{registry}/bill/other:1")
    trust.store.images.tag(name, f"{registry}/bill/other:1")
    with pytest.raises(InvalidInput, match="the registry has"):
        await service.attach(f"{registry}/bill/other:1", "spdx-json")


async def test_a_refused_pull_leaves_nothing(registry: str, trust: Trust) -> None:
    name = f"{registry}/refused/app:1"
    await trust.publish(name)
    trust.policy({"rule": "signedBy", "keys": ["team.pub"]}, registry)
    with pytest.raises(Forbidden, match=rf"scope {registry}: rule signedBy .*team\.pub"):
        await trust.pull(name)
    trust.policy({"rule": "reject"})
    with pytest.raises(Forbidden, match=r"policy\.json, default: rule reject"):
        await trust.pull(name)
    (trust.root / "policy.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"policy\.json"):
        await trust.pull(name)
    assert trust.store.images.list() == [] and trust.store.blobs.all() == []
    assert trust.store.layers.all() == []


async def test_a_pull_that_the_policy_wants(registry: str, trust: Trust) -> None:
    name = f"{registry}/wanted/app:1"
    await trust.publish(name)
    await trust.sign(name)
    trust.policy({"rule": "signedBy", "keys": ["team.pub"]}, f"{registry}/wanted")
    assert any("Downloaded newer image" in line for line in await trust.pull(name))
    missing = {"rule": "signedBy", "keys": ["team.pub", "none.pub"], "threshold": 2}
    trust.policy(missing)
    with pytest.raises(InvalidInput, match=r"no key file .*none\.pub"):
        await trust.pull(name)
    (trust.root / "none.pub").write_bytes(keys.generate()[1])
    with pytest.raises(Forbidden, match="1 of 2 signatures"):
        await trust.pull(name)


async def test_replay_of_a_signature_in_another_repository(registry: str, trust: Trust) -> None:
    """The same manifest under another name does not take its signatures along."""
    await trust.publish(f"{registry}/honest/app:1")
    async with trust.transfer.client(registry) as client:
        manifest = await client.manifest("honest/app", "1")
    evil = f"{registry}/evil/app:1"
    await trust.publish(evil)
    async with trust.transfer.client(registry) as client:
        for each in (manifest.data,):
            document = json.loads(each)
            for blob in (document["config"], *document["layers"]):
                assert await client.mount_blob("evil/app", blob["digest"], "honest/app")
        await client.put_manifest("evil/app", "1", manifest.data, manifest.media_type)
    await trust.sign(evil, about=f"{registry}/honest/app:1")
    with pytest.raises(Forbidden, match=r"not .*evil/app"):
        await trust.signing.verify(evil, [trust.key])
    trust.policy({"rule": "signedBy", "keys": ["team.pub"]})
    with pytest.raises(Forbidden, match="honest/app"):
        await trust.pull(evil)
    assert trust.store.blobs.all() == []
