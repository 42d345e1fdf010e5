"""What is about an image, between the store and registries: signatures, bills of materials.

In the store and in archives each is a referrer. In a registry signatures stand below a tag as well,
where tools that know no referrers look for them; coming in, what is only there becomes a referrer.
"""

import io
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import BinaryIO

from skerry.base.digests import sha256
from skerry.base.errors import LimitExceeded, RegistryNotFound, SkerryError
from skerry.base.oci_image import OCI_MANIFEST, Descriptor, parse_manifest
from skerry.base.references import Reference
from skerry.registry.client import Client
from skerry.store.blobs import Blobs
from skerry.store.referrers import MAX_ABOUT, Artifact, blobs_of
from skerry.trust.payload import MAX_PAYLOAD
from skerry.trust.signatures import (
    ANNOTATION,
    ARTIFACT_TYPE,
    MAX_SIGNATURES,
    Bundle,
    Signature,
    referrer_manifest,
    signature_layers,
    signature_tag,
    tag_manifest,
)

MAX_BLOB = 64 << 20
"""Bytes of one blob of an artifact that comes from a registry."""
Bring = Callable[[Descriptor], Awaitable[None]]
Opener = Callable[[str], BinaryIO]


async def fetch(
    client: Client,
    reference: Reference,
    subject: Descriptor,
    bring: Bring,
    put: Callable[[bytes], None],
) -> tuple[Artifact, ...]:
    """All that a registry has about a manifest; `bring` stores a blob of theirs, `put` a small one.

    RegistryError, InvalidInput; LimitExceeded for more than anybody needs.
    """
    repository, what = reference.repository, f"{reference.familiar_name}@{subject.digest}"
    listed = await client.referrers(repository, subject.digest)
    if len(listed) > MAX_ABOUT:
        raise LimitExceeded(f"{what}: {len(listed)} referrers, at most {MAX_ABOUT} are copied")
    found: list[Artifact] = []
    for each in listed:
        if each.media_type != OCI_MANIFEST:
            continue
        artifact = Artifact((await client.manifest(repository, each.digest, (OCI_MANIFEST,))).data)
        about = artifact.parsed().subject
        # A registry may list what it likes.
        if about is not None and about.digest == subject.digest:
            found.append(artifact)
    known = {_key(layer) for each in found for layer in each.parsed().layers}
    for layer in await tagged(client, reference, subject.digest):
        if _key(layer) not in known:
            made = referrer_manifest(layer, subject)
            put(made.config)
            found.append(Artifact(made.manifest))
    for artifact in found:
        for blob in blobs_of(artifact.parsed()):
            if blob.size > MAX_BLOB:
                raise LimitExceeded(
                    f"{what}: a referrer's blob of {blob.size} bytes, at most {MAX_BLOB}"
                )
            await bring(blob)
    return tuple(found)


async def send(
    client: Client, reference: Reference, artifacts: tuple[Artifact, ...], opener: Opener
) -> None:
    """Store them beside the image, which is there; signatures below their tag as well."""
    signatures: dict[str, list[Descriptor]] = {}
    for artifact in artifacts:
        manifest = artifact.parsed()
        for blob in blobs_of(manifest):
            await send_blob(client, reference, blob, opener)
        digest = sha256(artifact.manifest)
        await client.put_manifest(reference.repository, digest, artifact.manifest, OCI_MANIFEST)
        if manifest.subject and manifest.artifact_type == ARTIFACT_TYPE:
            layers = signature_layers(artifact.manifest)
            signatures.setdefault(manifest.subject.digest, []).extend(layers)
    for digest, layers in signatures.items():
        held = await tagged(client, reference, digest)
        known = {_key(each) for each in held}
        fresh = [each for each in layers if _key(each) not in known]
        if fresh:
            bundle = tag_manifest([*held, *fresh][:MAX_SIGNATURES])
            await put(client, reference, bundle, signature_tag(digest))


async def send_blob(client: Client, reference: Reference, blob: Descriptor, opener: Opener) -> None:
    """Unless the registry has it."""
    if await client.has_blob(reference.repository, blob.digest):
        return

    def at(offset: int) -> BinaryIO:
        file = opener(blob.digest)
        file.seek(offset)
        return file

    await client.push_blob(reference.repository, blob, at)


def signatures(artifacts: tuple[Artifact, ...], blobs: Blobs) -> list[Signature]:
    """The signatures among stored artifacts, not yet believed. A broken one counts for nothing:
    it must not make a good one do so."""
    found: list[Signature] = []
    for each in artifacts:
        with suppress(SkerryError):
            found += [
                Signature(blobs.read(layer.digest, MAX_PAYLOAD), layer.annotations[ANNOTATION])
                for layer in signature_layers(each.manifest)
            ]
    return found[:MAX_SIGNATURES]


async def tagged(client: Client, reference: Reference, digest: str) -> list[Descriptor]:
    """The signatures below a manifest's tag."""
    try:
        found = await client.manifest(reference.repository, signature_tag(digest), (OCI_MANIFEST,))
    except RegistryNotFound:
        return []
    return signature_layers(found.data)


async def put(client: Client, reference: Reference, bundle: Bundle, tag: str) -> str:
    """Push a manifest and its configuration, under its digest when `tag` is empty; its digest."""
    config = parse_manifest(bundle.manifest).config
    await send_blob(client, reference, config, lambda digest: io.BytesIO(bundle.config))
    name = tag or sha256(bundle.manifest)
    return await client.put_manifest(reference.repository, name, bundle.manifest, OCI_MANIFEST)


def _key(layer: Descriptor) -> tuple[str, str]:
    return layer.digest, layer.annotations.get(ANNOTATION, "")
