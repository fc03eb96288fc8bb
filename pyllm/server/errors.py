"""What a client is told when its request cannot be answered: OpenAI's form of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyllm.errors import PyllmError


class ApiError(Exception):
    """An answer with an error status. `param`: the field that is wrong; `code`: a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def kind(self) -> str:
        """OpenAI's word for this sort of error."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 403:
            return "permission_error"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def named(self, old: str, new: str) -> ApiError:
        """The same where the client's form calls the field `new`."""
        if self.param == old:
            self.param = new
            self.args = (str(self).replace(old, new, 1),)
        return self

    def document(self) -> dict[str, Any]:
        """The answer's JSON in OpenAI's form."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


class ClientLeftError(Exception):
    """The client has closed the connection: nobody waits for the answer."""


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def from_pyllm(error: PyllmError, fields: frozenset[str] = frozenset()) -> ApiError:
    """A value that the engine, the template or the tokenizer refuses: their messages begin with its name."""
    message = str(error)
    place = message.split(":")[0]
    name = place.split("[")[0].split(".")[0]
    prompt = next((field for field in ("messages", "input") if field in fields), "prompt")
    if message.startswith("prompt: ") and " tokens are more than " in message:
        return bad_request(message, prompt, "context_length_exceeded")
    return bad_request(message, prompt if place == "prompt" else place if name in fields else None)


def not_ready(reason: str, retry_after: int = 5) -> ApiError:
    """While loading, while draining, and when the engine has died."""
    return ApiError(503, reason, code="not_ready", headers={"retry-after": str(retry_after)})


def internal(error: Exception) -> ApiError:
    """Our own mistake: the log has the traceback, the client gets no details."""
    return ApiError(500, "the server failed; its log tells where", code="internal_error")
