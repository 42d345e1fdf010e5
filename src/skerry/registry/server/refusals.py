"""What the server refuses, in the words of the distribution specification.

A `Refusal` becomes the specification's error body (spec.md, "Error Codes"); the HTTP status belongs
to the code unless the case has one of its own (416 for a chunk out of order).
"""

from typing import Any, Final

from skerry.base.errors import SkerryError

STATUS: Final[dict[str, int]] = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 400,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DENIED": 403,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "PAGINATION_NUMBER_INVALID": 400,
    "RANGE_INVALID": 416,
    "SIZE_INVALID": 400,
    "TAG_INVALID": 400,
    "TOOMANYREQUESTS": 429,
    "UNAUTHORIZED": 401,
    "UNAVAILABLE": 503,
    "UNKNOWN": 500,
    "UNSUPPORTED": 405,
}
"""Error code to HTTP status. The last few are Docker's additions."""


class Refusal(SkerryError):
    """A request that is answered with an error body. `status` 0 takes the code's own."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 0,
        detail: object = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status or STATUS[code]
        self.detail = detail
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """`{"errors": [{code, message, detail}]}`."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        return {"errors": [error]}
