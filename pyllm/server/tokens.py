"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from pyllm.errors import PyllmError
from pyllm.server.errors import bad_request, from_pyllm
from pyllm.server.exchange import exchange_of
from pyllm.server.fields import template_arguments
from pyllm.server.logprobs import token_text
from pyllm.server.protocol import Content, DetokenizeRequest, TokenizeRequest, Tokens
from pyllm.server.stream import json_response

if TYPE_CHECKING:
    from pyllm.server.service import Service


class TokenRoutes:
    """Both endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        """Token ids of a text, or of a conversation as the model would read it."""
        service = self._service
        service.check_ready()
        body, _ = await service.read(request, TokenizeRequest)
        llm = (await service.open(exchange_of(request), body.model)).llm
        given = [name for name in ("content", "prompt", "messages") if getattr(body, name) is not None]
        if len(given) != 1:
            raise bad_request(
                f"expected one of content, prompt and messages, got {' and '.join(given) or 'none'}", "content"
            )
        text = body.content if body.content is not None else body.prompt
        arguments = template_arguments(body.chat_template_kwargs, None, llm.template, service.options)

        def encode() -> list[int]:
            if body.messages is not None:
                return llm.template.encode(body.messages, tools=body.tools, **arguments)
            return llm.tokenizer.encode(text or "", add_bos=body.add_special and llm.tokenizer.bos is not None)

        try:
            ids = await service.in_worker(encode)
        except PyllmError as error:
            raise from_pyllm(error, frozenset(TokenizeRequest.__struct_fields__)) from None
        pieces = [token_text(llm.tokenizer, id) for id in ids] if body.with_pieces else None
        return json_response(Tokens(ids, len(ids), llm.context, pieces))

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids."""
        service = self._service
        service.check_ready()
        body, _ = await service.read(request, DetokenizeRequest)
        llm = (await service.open(exchange_of(request), body.model)).llm
        try:
            text = await service.in_worker(lambda: llm.tokenizer.decode(body.tokens))
        except PyllmError as error:
            raise bad_request(f"tokens: {error}", "tokens") from None
        return json_response(Content(text))
