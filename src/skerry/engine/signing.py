"""Signing images in registries, checking their signatures, and the policy that every pull meets.

Private keys never come here: a client signs the payload itself and hands in the signature.
"""

import io
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from skerry.base.errors import Forbidden, InvalidInput, RegistryNotFound, SkerryError
from skerry.base.oci_image import OCI_MANIFEST, Descriptor
from skerry.base.references import Reference, parse_reference
from skerry.base.small_file import read_small
from skerry.engine import artifacts
from skerry.engine.transfer import Transfer
from skerry.registry.auth import Credential
from skerry.registry.client import Client
from skerry.trust.payload import MAX_PAYLOAD, parse_payload
from skerry.trust.policy import MAX_POLICY, Policy, Rule, parse_policy
from skerry.trust.signatures import (
    ANNOTATION,
    ARTIFACT_TYPE,
    MAX_SIGNATURES,
    Signature,
    Verified,
    referrer_manifest,
    signature_layers,
    signature_tag,
    tag_manifest,
    verify_any,
)

if TYPE_CHECKING:
    from skerry.trust.keys import Verifying

SYSTEM_POLICY: Final = "/etc/skerry/policy.json"
_MAX_REFERRERS: Final = 64


class Gate:
    """The policy on what may come in; `Transfer` asks it before it fetches layers, whoever reads
    archives before it records an image."""

    def __init__(self, root: str, system_file: str = SYSTEM_POLICY) -> None:
        self._files = (os.path.join(root, "policy.json"), system_file)

    def policy(self) -> Policy | None:
        """`<root>/policy.json`, else `/etc/skerry/policy.json`; None when there is neither.

        Read each time, so that a change needs no restart. A file that cannot be read or understood
        raises InvalidInput: no pull goes on without it.
        """
        for path in self._files:
            data = read_small(path, MAX_POLICY)
            if data is not None:
                return parse_policy(data, path)
        return None

    async def admit(self, client: Client, reference: Reference, digests: Sequence[str]) -> None:
        """Forbidden, with rule and keys, when the policy does not let in the image that has these
        digests: a signature of an index vouches for all of its manifests."""
        policy = self.policy()
        if policy is None:
            return
        rule = policy.rule(reference)
        if rule.verdict == "accept":
            return
        what = f"pull {reference.familiar}: refused by {policy.path}, {rule.shown}"
        if rule.verdict == "reject":
            raise Forbidden(f"{what}: rule reject", hint="an administrator can add a scope for it")
        keys = trusted_keys(rule)
        signers: set[str] = set()
        reasons: list[str] = []
        for digest in dict.fromkeys(digests):
            good, bad = await check(client, reference, digest, keys)
            signers.update(each.key.fingerprint for each in good)
            reasons += bad
            if len(signers) >= rule.threshold:
                return
        wanted = ", ".join(key.shown for key in keys)
        raise Forbidden(
            f"{what}: rule signedBy {wanted}: {len(signers)} of {rule.threshold} signatures: "
            + "; ".join(dict.fromkeys(reasons or ["there is no signature"]))
        )

    def admit_file(
        self,
        names: Sequence[str],
        what: str,
        signed: Sequence[tuple[str, Sequence[Signature]]] = (),
    ) -> None:
        """Forbidden when the policy does not let in an image that comes as a file.

        Each of its names has to be accepted by rule, the default's for an image without a name.
        `signed` is what the file brings about the image's manifest and the indexes that led to it,
        each by its digest.
        """
        policy = self.policy()
        if policy is None:
            return
        rules = {name: policy.rule(parse_reference(name)) for name in names}
        for name, rule in (rules or {"an image without a name": policy.default}).items():
            if rule.verdict == "accept":
                continue
            refused = f"{what} {name:.200}: refused by {policy.path}, {rule.shown}: rule"
            if rule.verdict == "reject":
                raise Forbidden(f"{refused} reject", hint="an administrator can add a scope for it")
            if not any(signatures for _, signatures in signed) or not names:
                raise Forbidden(
                    f"{refused} signedBy: the file brings no signature",
                    hint="pull or copy it from the registry that holds its signatures, "
                    "or load an oci-archive that was saved with --referrers",
                )
            keys = trusted_keys(rule)
            signers: set[str] = set()
            reasons: list[str] = []
            for digest, signatures in signed:
                good, bad = verify_any(signatures, parse_reference(name), digest, keys)
                signers.update(each.key.fingerprint for each in good)
                reasons += bad
            if len(signers) < rule.threshold:
                wanted = ", ".join(key.shown for key in keys)
                raise Forbidden(
                    f"{refused} signedBy {wanted}: {len(signers)} of {rule.threshold} signatures: "
                    + "; ".join(reasons or ["there are no more"])
                )

    def same_rule(self, one: str, other: str) -> bool:
        """Whether one rule decides on two references; what met it as the one meets it as the
        other."""
        policy = self.policy()
        first, second = (parse_reference(name) for name in (one, other))
        return policy is None or policy.rule(first) == policy.rule(second)


class Signing:
    """The service."""

    def __init__(self, transfer: Transfer, root: str) -> None:
        self._transfer = transfer
        self.gate = Gate(root)
        transfer.policy = self.gate

    async def resolve(self, name: str, credential: Credential | None = None) -> Descriptor:
        """The manifest or index that a registry has under `name`."""
        reference = parse_reference(name)
        async with self._transfer.client(reference.registry, credential) as client:
            return await client.resolve(reference.repository, reference.digest or reference.tag)

    async def attach(
        self, name: str, signature: Signature, credential: Credential | None = None
    ) -> str:
        """Store a signature beside the image: below the tag `sha256-….sig` and as a referrer.

        InvalidInput when the payload is about another image. The tag's manifest.
        """
        reference = parse_reference(name)
        payload = parse_payload(signature.payload)
        async with self._transfer.client(reference.registry, credential) as client:
            subject = await client.resolve(reference.repository, reference.digest or reference.tag)
            if payload.digest != subject.digest:
                raise InvalidInput(
                    f"sign {reference.familiar}: the payload is for {payload.digest}, the registry "
                    f"has {subject.digest}",
                    hint="the tag has moved meanwhile; sign by digest",
                )
            held = await artifacts.tagged(client, reference, subject.digest)
            layer = signature.descriptor
            if layer not in held:
                held.append(layer)
            if len(held) > MAX_SIGNATURES:
                raise InvalidInput(f"sign {reference.familiar}: too many signatures")
            await artifacts.send_blob(
                client, reference, layer, lambda _: io.BytesIO(signature.payload)
            )
            await artifacts.put(client, reference, referrer_manifest(layer, subject), "")
            tag = signature_tag(subject.digest)
            return await artifacts.put(client, reference, tag_manifest(held), tag)

    async def verify(
        self, name: str, keys: Sequence["Verifying"], credential: Credential | None = None
    ) -> tuple[str, list[Verified]]:
        """The image's digest and the signatures that hold; Forbidden when none does."""
        if not keys:
            raise InvalidInput(f"verify {name}: no key was given")
        reference = parse_reference(name)
        async with self._transfer.client(reference.registry, credential) as client:
            wanted = reference.digest or reference.tag
            digest = (await client.resolve(reference.repository, wanted)).digest
            good, bad = await check(client, reference, digest, keys)
        if not good:
            names = ", ".join(key.shown for key in keys)
            raise Forbidden(
                f"verify {reference.familiar}: no signature of {digest} by {names}: "
                + "; ".join(bad or ["there is no signature"])
            )
        return digest, good


def trusted_keys(rule: Rule) -> "list[Verifying]":
    """The keys of a rule, read now; InvalidInput names the file."""
    # A large library, which an engine without a policy never needs.
    from skerry.trust.keys import MAX_PEM, load_public

    keys = []
    for path in rule.keys:
        data = read_small(path, MAX_PEM)
        if data is None:
            raise InvalidInput(f"policy, {rule.shown}: no key file {path}")
        keys.append(load_public(data, path))
    return keys


async def check(
    client: Client, reference: Reference, digest: str, keys: Sequence["Verifying"]
) -> tuple[list[Verified], list[str]]:
    """The signatures of a manifest that hold, one a key, and why the others do not."""
    signatures, failures = await _signatures(client, reference, digest)
    good, bad = verify_any(signatures, reference, digest, keys)
    return good, [*bad, *failures]


async def _signatures(
    client: Client, reference: Reference, digest: str
) -> tuple[list[Signature], list[str]]:
    """From the tag and from the referrers. A broken one is a reason, not the end: whoever may
    write beside the image must not be able to make a good signature count for nothing."""
    layers: dict[tuple[str, str], tuple[Descriptor, str]] = {}
    failures: list[str] = []
    async for data, what in _manifests(client, reference, digest, failures):
        try:
            for layer in signature_layers(data, what):
                layers.setdefault((layer.digest, layer.annotations[ANNOTATION]), (layer, what))
        except InvalidInput as error:
            failures.append(error.message)
    found = []
    for layer, what in list(layers.values())[:MAX_SIGNATURES]:
        try:
            payload = await client.read_blob(reference.repository, layer, MAX_PAYLOAD)
            found.append(Signature(payload, layer.annotations[ANNOTATION]))
        except SkerryError as error:
            failures.append(f"{what}: {error.message}")
    return found, failures


async def _manifests(
    client: Client, reference: Reference, digest: str, failures: list[str]
) -> AsyncIterator[tuple[bytes, str]]:
    tags = [signature_tag(digest)]
    try:
        tags += [
            each.digest
            for each in await client.referrers(reference.repository, digest, ARTIFACT_TYPE)
        ][:_MAX_REFERRERS]
    except SkerryError as error:
        failures.append(error.message)
    for each in tags:
        try:
            found = await client.manifest(reference.repository, each, (OCI_MANIFEST,))
        except RegistryNotFound:
            continue
        except SkerryError as error:
            failures.append(error.message)
            continue
        yield found.data, f"signatures {each[:26]}"
