"""The rules of the lint, as data: they also make docs/build-lint.md.

Names and words of the first group are BuildKit's (Dockerfile reference, "Build checks"); the second
group is ours.
"""

from typing import Final, NamedTuple


class Rule(NamedTuple):
    """`bad` is a Dockerfile that breaks the rule once, `good` the same without."""

    name: str
    summary: str
    bad: str
    good: str
    own: bool = False
    experimental: bool = False
    """Only when `# check=experimental=NAME` asks for it."""


_BUILDKIT: Final = (
    Rule(
        "StageNameCasing",
        "Stage names should be lowercase",
        "FROM alpine:3.20 AS Build",
        "FROM alpine:3.20 AS build",
    ),
    Rule(
        "FromAsCasing",
        "The 'as' keyword should match the case of the 'from' keyword",
        "FROM alpine:3.20 as build",
        "FROM alpine:3.20 AS build",
    ),
    Rule(
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
        "FROM alpine:3.20\nRUN echo \\\n\n  hello",
        "FROM alpine:3.20\nRUN echo \\\n  hello",
    ),
    Rule(
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        "FROM alpine:3.20\nrun true\nRUN true",
        "FROM alpine:3.20\nRUN true\nRUN true",
    ),
    Rule(
        "DuplicateStageName",
        "Stage names should be unique",
        "FROM alpine:3.20 AS build\nFROM alpine:3.20 AS build",
        "FROM alpine:3.20 AS build\nFROM alpine:3.20 AS test",
    ),
    Rule(
        "ReservedStageName",
        "Reserved words should not be used as stage names",
        "FROM alpine:3.20 AS context",
        "FROM alpine:3.20 AS sources",
    ),
    Rule(
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to "
        "OS signals",
        "FROM alpine:3.20\nCMD server --port 80",
        'FROM alpine:3.20\nCMD ["server", "--port", "80"]',
    ),
    Rule(
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        "FROM alpine:3.20\nMAINTAINER me@example.org",
        "FROM alpine:3.20\nLABEL org.opencontainers.image.authors=me@example.org",
    ),
    Rule(
        "UndefinedArgInFrom",
        "FROM command must use declared ARGs",
        "FROM alpine:3.20${VARIANT}",
        "ARG VARIANT\nFROM alpine:3.20${VARIANT}",
    ),
    Rule(
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have "
        "unexpected results if the base image changes",
        "FROM alpine:3.20\nWORKDIR app",
        "FROM alpine:3.20\nWORKDIR /app",
    ),
    Rule(
        "UndefinedVar",
        "Variables should be defined before their use",
        "FROM scratch\nARG version=1\nLABEL version=$versoin",
        "FROM scratch\nARG version=1\nLABEL version=$version",
    ),
    Rule(
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
        'FROM alpine:3.20\nCMD ["one"]\nCMD ["two"]',
        'FROM alpine:3.20\nCMD ["two"]',
    ),
    Rule(
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
        "FROM alpine:3.20\nENV DIR /srv",
        "FROM alpine:3.20\nENV DIR=/srv",
    ),
    Rule(
        "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform",
        "# Where foreign:1 is here for another platform\nFROM foreign:1",
        "FROM alpine:3.20",
    ),
    Rule(
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the "
        "default behavior",
        "FROM --platform=$TARGETPLATFORM alpine:3.20",
        "FROM alpine:3.20",
    ),
    Rule(
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
        "FROM alpine:3.20\nARG API_TOKEN",
        "FROM alpine:3.20\nRUN --mount=type=secret,id=api_token true",
    ),
    Rule(
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
        "ARG TAG\nFROM alpine:${TAG}",
        "ARG TAG=3.20\nFROM alpine:${TAG}",
    ),
    Rule(
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
        "FROM --platform=linux/amd64 alpine:3.20",
        "FROM --platform=$BUILDPLATFORM alpine:3.20",
    ),
    Rule(
        "CopyIgnoredFile",
        "Attempting to Copy file that is excluded by .dockerignore",
        "FROM scratch\nCOPY ignored /",
        "FROM scratch\nCOPY wanted /",
    ),
    Rule(
        "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: "
        "`# <arg/stage name> <description>`. If this is not intended to be a description comment, "
        "add an empty line or comment between the instruction and the comment.",
        "# check=experimental=InvalidDefinitionDescription\n\n"
        "# the tools\nFROM alpine:3.20 AS build",
        "# check=experimental=InvalidDefinitionDescription\n\n"
        "# build has the tools\nFROM alpine:3.20 AS build",
        experimental=True,
    ),
    Rule(
        "ExposeProtoCasing",
        "Protocol in EXPOSE instruction should be lowercase",
        "FROM alpine:3.20\nEXPOSE 80/TCP",
        "FROM alpine:3.20\nEXPOSE 80/tcp",
    ),
    Rule(
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will "
        "become an error in a future release",
        "FROM alpine:3.20\nEXPOSE 127.0.0.1:80:80",
        "FROM alpine:3.20\nEXPOSE 80",
    ),
)
_OWN: Final = (
    Rule(
        "BaseImageLatest",
        "A base without a tag, or with the tag latest, is another image tomorrow",
        "FROM debian",
        "FROM debian:12",
        own=True,
    ),
    Rule(
        "AptWithoutCleanup",
        "apt-get leaves its package lists in the layer: remove them in the same RUN, or keep them "
        "in a cache mount",
        "FROM debian:12\nRUN apt-get update && apt-get install -y curl",
        "FROM debian:12\nRUN apt-get update && apt-get install -y curl "
        "&& rm -rf /var/lib/apt/lists/*",
        own=True,
    ),
    Rule(
        "AptUpdateAlone",
        "apt-get update in a RUN of its own is cached: a later install uses old package lists",
        "FROM debian:12\nRUN apt-get update",
        "FROM debian:12\nRUN apt-get update && apt-get install -y curl "
        "&& rm -rf /var/lib/apt/lists/*",
        own=True,
    ),
    Rule(
        "PipCacheKept",
        "pip keeps downloads in the layer: say --no-cache-dir, or use a cache mount",
        "FROM python:3.12\nRUN pip install flask",
        "FROM python:3.12\nRUN pip install --no-cache-dir flask",
        own=True,
    ),
    Rule(
        "SecretInText",
        "What looks like a key or a password stands in the Dockerfile: everybody who has the image "
        "can read it in its history; mount it as a secret",
        "FROM alpine:3.20\nRUN wget https://me:hunter2@example.org/file",
        "FROM alpine:3.20\nRUN --mount=type=secret,id=netrc,target=/root/.netrc "
        "wget https://example.org/file",
        own=True,
    ),
)
RULES: Final = {rule.name: rule for rule in (*_BUILDKIT, *_OWN)}
