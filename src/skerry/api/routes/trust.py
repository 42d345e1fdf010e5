"""/skerry/signatures and /skerry/sbom: who vouches for an image, and what is in it.

The client signs: `GET …/subject` tells the digest, the client makes the payload and signs it with
its own key, `POST …` stores the two.
"""

import base64
from typing import Any

from aiohttp import web

from skerry.api.call import Call
from skerry.api.image_shapes import referrer
from skerry.api.router import Route
from skerry.api.routes.transfer import credential
from skerry.base.errors import InvalidInput
from skerry.base.references import parse_reference
from skerry.trust.sbom import MEDIA_TYPES, SPDX
from skerry.trust.signatures import make_signature

_MAX_KEYS = 32


async def subject(call: Call) -> web.StreamResponse:
    """GET /skerry/signatures/subject?name=…: what there is to sign."""
    name = _name(call)
    found = await call.engine.signing.resolve(name, credential(call))
    return call.json(
        {"Name": parse_reference(name).name, "Digest": found.digest, "MediaType": found.media_type}
    )


async def attach(call: Call) -> web.StreamResponse:
    """POST /skerry/signatures?name=… with `{"Payload": base64, "Signature": base64}`."""
    body = await call.body()
    signature = make_signature(_bytes(body, "Payload"), _bytes(body, "Signature"))
    digest = await call.engine.signing.attach(_name(call), signature, credential(call))
    return call.json({"Digest": digest}, 201)


async def verify(call: Call) -> web.StreamResponse:
    """POST /skerry/signatures/verify?name=… with `{"Keys": [{"Name": …, "Pem": …}]}`."""
    from skerry.trust.keys import load_public

    body = await call.body()
    given = body.get("Keys")
    if not isinstance(given, list) or not 0 < len(given) <= _MAX_KEYS:
        raise InvalidInput(f"invalid JSON: Keys has to be a list of 1 to {_MAX_KEYS} keys")
    keys = []
    for each in given:
        if not isinstance(each, dict):
            raise InvalidInput("invalid JSON: each of Keys has to be an object")
        pem, label = each.get("Pem"), each.get("Name", "key")
        if not isinstance(pem, str) or not isinstance(label, str):
            raise InvalidInput("invalid JSON: Name and Pem have to be strings")
        keys.append(load_public(pem.encode("utf-8", "replace"), label[:200]))
    digest, good = await call.engine.signing.verify(_name(call), keys, credential(call))
    return call.json(
        {
            "Digest": digest,
            "Signatures": [
                {
                    "Key": each.key.name,
                    "Fingerprint": each.key.fingerprint,
                    "Reference": each.payload.reference,
                    "Annotations": each.payload.annotations,
                }
                for each in good
            ],
        }
    )


async def bill(call: Call) -> web.StreamResponse:
    """GET /skerry/sbom?name=…&format=…: the document of an image that is here."""
    form = call.text("format", SPDX)
    data = await call.engine.sbom.make(_name(call), form)
    return web.Response(body=data, content_type=MEDIA_TYPES[form])


async def attach_bill(call: Call) -> web.StreamResponse:
    """POST /skerry/sbom?name=…&format=…&here=…: store it in the image's registry, or with `here` in
    this engine's store."""
    if call.flag("here"):
        digest = await call.engine.sbom.keep(_name(call), call.text("format", SPDX))
        return call.json({"Digest": digest}, 201)
    digest = await call.engine.sbom.attach(_name(call), call.text("format", SPDX), credential(call))
    return call.json({"Digest": digest}, 201)


async def kept(call: Call) -> web.StreamResponse:
    """GET /skerry/referrers?name=…: what this engine keeps about an image."""
    found = call.engine.sbom.kept(_name(call))
    return call.json([referrer(each) for each in found])


def _name(call: Call) -> str:
    name = call.text("name")
    if not name:
        raise InvalidInput("missing parameter: name")
    return name


def _bytes(body: dict[str, Any], key: str) -> bytes:
    value = body.get(key)
    if not isinstance(value, str):
        raise InvalidInput(f"invalid JSON: {key} has to be a string")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise InvalidInput(f"invalid JSON: {key} is not base64") from None


ROUTES = [
    Route("GET", "/skerry/signatures/subject", subject),
    Route("POST", "/skerry/signatures", attach),
    Route("POST", "/skerry/signatures/verify", verify),
    Route("GET", "/skerry/sbom", bill),
    Route("POST", "/skerry/sbom", attach_bill),
    Route("GET", "/skerry/referrers", kept),
]
