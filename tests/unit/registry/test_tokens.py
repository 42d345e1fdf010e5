"""Token authentication against a realm of our own."""

import asyncio
import base64

import pytest
from aiohttp import web

from skerry.base.digests import sha256
from skerry.base.errors import (
    RegistryProtocol,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnreachable,
)
from skerry.base.oci_image import OCI_MANIFEST
from skerry.registry.auth import Credential

MANIFEST = b'{"schemaVersion":2}'
BASIC = "Basic " + base64.b64encode(b"user:secret").decode()


class Realm:
    """A registry that wants tokens, and the realm that gives them."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []
        self.authorizations: list[str] = []
        self.good: set[str] = set()
        self.answer: dict[str, object] = {}
        self.status = 200
        self.headers: dict[str, str] = {}
        self.realm = ""
        self.scope = ""

    async def token(self, request: web.BaseRequest) -> web.Response:
        form = dict(await request.post())
        self.asked.append(
            {
                "method": request.method,
                "scopes": request.query.getall("scope", []),
                **{key: value for key, value in request.query.items() if key != "scope"},
                **form,
            }
        )
        self.authorizations.append(request.headers.get("Authorization", ""))
        token = f"token{len(self.asked)}"
        self.good.add(token)
        body = self.answer or {"token": token, "expires_in": 300}
        return web.json_response(body, status=self.status, headers=self.headers)

    async def registry(self, request: web.BaseRequest) -> web.Response:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") in self.good:
            return web.Response(body=MANIFEST, content_type=OCI_MANIFEST)
        challenge = f'Bearer realm="{self.realm}",service="here"'
        if self.scope:
            challenge += f',scope="{self.scope}"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})


@pytest.fixture
async def realm(servers):
    made = Realm()
    made.realm = f"http://{await servers.web(made.token)}/token"
    made.name = await servers.web(made.registry)
    return made


async def test_a_token_for_nobody(servers, realm) -> None:
    client = await servers.client(realm.name)
    await client.manifest("app", "v1")
    await client.manifest("app", "v2")
    assert realm.asked == [{"method": "GET", "scopes": ["repository:app:pull"], "service": "here"}]
    assert realm.authorizations == [""]


async def test_a_token_for_a_user(servers, realm) -> None:
    client = await servers.client(realm.name, Credential("user", "secret"))
    await client.manifest("app", "v1")
    assert realm.authorizations == [BASIC]
    assert realm.asked[0]["account"] == "user"


async def test_an_identity_token_is_exchanged(servers, realm) -> None:
    client = await servers.client(realm.name, Credential(identity_token="refresh"))
    await client.manifest("app", "v1")
    (asked,) = realm.asked
    assert asked["method"] == "POST"
    assert asked["grant_type"] == "refresh_token"
    assert asked["refresh_token"] == "refresh"
    assert asked["scope"] == "repository:app:pull"


async def test_a_registry_token_is_sent_as_it_is(servers, realm) -> None:
    realm.good.add("mine")
    client = await servers.client(realm.name, Credential(registry_token="mine"))
    await client.manifest("app", "v1")
    assert realm.asked == []


async def test_each_scope_has_a_token_and_many_tasks_share_it(servers, realm) -> None:
    client = await servers.client(realm.name)
    await client.manifest("app", "v1")
    await asyncio.gather(*(client.manifest("other", f"v{n}") for n in range(10)))
    await asyncio.gather(*(client.has_blob("app", sha256(b"%d" % n)) for n in range(10)))
    assert [asked["scopes"] for asked in realm.asked] == [
        ["repository:app:pull"],
        ["repository:other:pull"],
        ["repository:app:pull,push"],
    ]


async def test_a_token_that_is_no_longer_good_is_renewed(servers, realm) -> None:
    client = await servers.client(realm.name)
    await client.manifest("app", "v1")
    realm.good.clear()
    await asyncio.gather(*(client.manifest("app", f"v{n}") for n in range(5)))
    assert 2 <= len(realm.asked) <= 6


async def test_the_scope_of_the_challenge_is_asked_for_too(servers, realm) -> None:
    realm.scope = "repository:prefix/app:pull"
    client = await servers.client(realm.name)
    await client.manifest("app", "v1")
    assert realm.asked[0]["scopes"] == ["repository:app:pull", "repository:prefix/app:pull"]


async def test_credentials_that_are_wrong(servers, realm) -> None:
    realm.status = 401
    client = await servers.client(realm.name, Credential("user", "wrong"))
    with pytest.raises(RegistryUnauthorized, match="credentials of user are not accepted"):
        await client.manifest("app", "v1")
    with pytest.raises(RegistryUnauthorized, match="credentials of user are not accepted"):
        await client.login()


async def test_login_stores_an_identity_token(servers, realm) -> None:
    realm.answer = {"access_token": "token1", "refresh_token": "identity"}
    client = await servers.client(realm.name, Credential("user", "secret"))
    assert (await client.login()).identity_token == "identity"
    assert realm.asked[0]["offline_token"] == "true"
    assert realm.authorizations == [BASIC]


async def test_nobody_cannot_log_in(servers, realm) -> None:
    client = await servers.client(realm.name)
    with pytest.raises(RegistryUnauthorized, match="authentication required"):
        await client.login()


async def test_a_realm_with_limits(servers, realm) -> None:
    realm.status, realm.headers = 429, {"Retry-After": "60"}
    client = await servers.client(realm.name)
    with pytest.raises(RegistryRateLimited, match="1 min left"):
        await client.manifest("app", "v1")


async def test_a_realm_that_is_down_is_asked_again(servers, realm) -> None:
    realm.status = 503
    client = await servers.client(realm.name)
    with pytest.raises(RegistryUnreachable, match="HTTP 503"):
        await client.manifest("app", "v1")
    assert len(realm.asked) == 3


@pytest.mark.parametrize(
    "answer",
    [
        {"token": "with\r\nX-Injected: header"},
        {"token": 5},
        {"token": ""},
        {"other": "x"},
        {"token": "x" * 300_000},
        {"token": "x" * 2_000_000},
        {"token": ["x"]},
    ],
)
async def test_what_is_no_token(servers, realm, answer) -> None:
    realm.answer = answer
    client = await servers.client(realm.name)
    with pytest.raises((RegistryUnreachable, RegistryProtocol)) as caught:
        await client.manifest("app", "v1")
    assert caught.value.message.startswith(f"{realm.name}/app:v1: ")


@pytest.mark.parametrize("life", [-5, 0, True, "x", 10**30, None])
async def test_senseless_life_times(servers, realm, life) -> None:
    realm.good.add("good")
    realm.answer = {"token": "good", "expires_in": life}
    client = await servers.client(realm.name)
    await client.manifest("app", "v1")
    await client.manifest("app", "v1")
    assert len(realm.asked) == 1


@pytest.mark.parametrize(
    "place", ["", "file:///etc/passwd", "x", "http://", "http://[", "x" * 3000]
)
async def test_realms_that_are_none(servers, realm, place: str) -> None:
    realm.realm = place
    client = await servers.client(realm.name, Credential("user", "secret"))
    with pytest.raises((RegistryUnreachable, RegistryProtocol), match="app:v1: "):
        await client.manifest("app", "v1")
    assert realm.asked == []


async def test_a_realm_that_redirects_gets_no_credentials_elsewhere(servers, realm) -> None:
    seen: list[str] = []

    async def elsewhere(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({"token": "x"})

    realm.status = 307
    realm.headers = {"Location": f"http://{await servers.web(elsewhere)}/"}
    client = await servers.client(realm.name, Credential("user", "secret"))
    with pytest.raises(RegistryProtocol):
        await client.manifest("app", "v1")
    assert seen == []
