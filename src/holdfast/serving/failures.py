"""What a client is told when something cannot be done, in the protocol's form of an error."""

from __future__ import annotations

from typing import Any

from holdfast.errors import UserError
from holdfast.generation.live_engine import ContextOverflow, NoLogprobs


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: What is wrong and what to do, one line.
        param: The parameter of the request that it is about.
        code: Short name for programs.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_json(self) -> dict[str, Any]:
        """The body."""
        kind = "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status >= 500:
            kind = "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def to_api_error(error: Exception) -> ApiError:
    """What a client is told of an error: what it can mend in full, of any other only its kind."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextOverflow):
        return ApiError(400, str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, NoLogprobs):
        return ApiError(400, str(error), param="logprobs", code="unsupported_parameter")
    if isinstance(error, UserError):
        return ApiError(400, str(error), code="invalid_value")
    return ApiError(500, f"the answer failed: {type(error).__name__}; the server's own output says more")
