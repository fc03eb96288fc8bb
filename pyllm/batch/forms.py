"""From records to requests: OpenAI's batch rows, plain rows of JSON, lines of text, columns of a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from pyllm.batch.row import Record, Row, RowError
from pyllm.errors import PyllmError

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, RESPONSES = "/v1/embeddings", "/v1/responses"
URLS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)
_TEXT_ONLY = ("prompt", "messages", "input")
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Forms:
    """How records become requests.

    kind: what the input holds. template: Jinja that makes a prompt of a record's fields. chat, system: prompts
    become messages. schema: JSON schema of all answers whose row asks for none. max_tokens: of completions that
    say nothing. endpoint: the only url that rows may have, "" for any.
    """

    kind: Literal["jsonl", "lines", "csv"] = "jsonl"
    template: str = ""
    chat: bool = False
    system: str = ""
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    endpoint: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_render", _Template(self.template) if self.template else None)

    def fingerprint(self) -> str:
        """Tells apart forms that make other requests of the same records."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def row(self, record: Record) -> Row:
        """What the record asks for; whatever is wrong with it is the row's error."""
        row = Row(record, "openai" if self.kind == "jsonl" else "plain")
        try:
            if isinstance(record.data, RowError):
                raise record.data
            if isinstance(record.data, dict):
                return self._of_fields(record, record.data)
            if self.kind == "lines":
                return self._of_prompt(record, {"prompt": _utf8(record, record.data)})
            document = _object(record, record.data)
            row = _head(record, document)
            if row.form == "openai" or self.endpoint:
                row = dataclasses.replace(row, form="openai")
                return self._of_openai(row, document)
            return self._of_fields(record, document)
        except RowError as error:
            return dataclasses.replace(row, error=error)

    def _of_openai(self, row: Row, document: dict[str, Any]) -> Row:
        url, body, method = document.get("url"), document.get("body"), document.get("method", "POST")
        at = f"line {row.number}"
        if row.custom_id is None:
            raise RowError("missing_custom_id", f"{at}: custom_id: expected a text")
        if method != "POST":
            raise RowError("invalid_method", f"{at}: method: expected POST, got {method!r:.40}")
        if url not in URLS:
            raise RowError("unknown_url", f"{at}: url: expected one of {', '.join(URLS)}, got {url!r:.120}")
        if self.endpoint and url != self.endpoint:
            raise RowError(
                "mismatched_url", f"{at}: url: expected {self.endpoint}, as the batch says, got {url}"
            )
        if not isinstance(body, dict):
            raise RowError("missing_body", f"{at}: body: expected an object")
        return dataclasses.replace(row, url=url, body=self._completed(url, body))

    def _of_fields(self, record: Record, fields: Mapping[str, Any]) -> Row:
        """A plain row: a request of its own, or columns for the template."""
        render: _Template | None = self.__dict__["_render"]
        if render is not None:
            return self._of_prompt(record, {"prompt": render(record, fields)}, fields.get("custom_id"))
        given = [name for name in _TEXT_ONLY if fields.get(name) is not None]
        if len(given) != 1:
            wanted = f"one of {', '.join(_TEXT_ONLY)}"
            if self.kind == "csv":
                wanted = "a column prompt, or --template"
            found = " and ".join(given) or ", ".join(fields)[:200]
            raise RowError("missing_prompt", f"row {record.number}: expected {wanted}, found {found}")
        custom_id = fields.get("custom_id")
        if self.kind == "csv":
            return self._of_prompt(record, {"prompt": fields["prompt"]}, custom_id)
        body = {name: value for name, value in fields.items() if name != "custom_id"}
        if given == ["prompt"]:
            return self._of_prompt(record, body, custom_id)
        url = CHAT if given == ["messages"] else EMBEDDINGS
        return Row(record, "plain", custom_id, url, self._completed(url, body))

    def _of_prompt(self, record: Record, body: dict[str, Any], custom_id: Any = None) -> Row:
        url = COMPLETIONS
        if self.chat or self.system:
            url, text = CHAT, body["prompt"]
            if not isinstance(text, str):
                raise RowError("invalid_prompt", f"row {record.number}: prompt: expected a text for --chat")
            system = [{"role": "system", "content": self.system}] if self.system else []
            body = {**body, "messages": [*system, {"role": "user", "content": text}]}
            del body["prompt"]
        elif "max_tokens" not in body:
            body = {**body, "max_tokens": self.max_tokens or 512}
        return Row(record, "plain", custom_id, url, self._completed(url, body))

    def _completed(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """With what the job says for rows that say nothing."""
        if url == COMPLETIONS and self.max_tokens and body.get("max_tokens") is None:
            body = {**body, "max_tokens": self.max_tokens}
        if self.schema is None or url == EMBEDDINGS:
            return body
        form = {"name": "schema", "schema": self.schema, "strict": True}
        if url == RESPONSES:
            text = body.get("text") or {}
            return (
                body
                if text.get("format")
                else {**body, "text": {**text, "format": {"type": "json_schema", **form}}}
            )
        if body.get("response_format") is not None:
            return body
        return {**body, "response_format": {"type": "json_schema", "json_schema": form}}


def _head(record: Record, document: dict[str, Any]) -> Row:
    """Form and name of a row, as far as they can be told."""
    form: Literal["openai", "plain"] = "openai" if document.keys() & {"body", "url", "method"} else "plain"
    custom_id = document.get("custom_id")
    if custom_id is not None and not (isinstance(custom_id, str) and custom_id):
        raise RowError("invalid_custom_id", f"line {record.number}: custom_id: expected a text")
    return Row(record, form, custom_id)


def _utf8(record: Record, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        told = f"line {record.number}: expected UTF-8, found byte 0x{data[error.start]:02x} at {error.start}"
        raise RowError("invalid_utf8", told) from None


def _object(record: Record, data: bytes) -> dict[str, Any]:
    at = f"line {record.number}"
    try:
        document = _decode(data)
    except RecursionError:
        raise RowError("invalid_json", f"{at}: JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RowError("invalid_json", f"{at}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise RowError("invalid_json", f"{at}: expected a JSON object, found {type(document).__name__}")
    return document


class _Template:
    """The user's own template; a column that is not there is an error."""

    def __init__(self, source: str) -> None:
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise PyllmError(f"--template: {error}") from None

    def __call__(self, record: Record, fields: Mapping[str, Any]) -> str:
        try:
            text = self._template.render(fields)
        except Exception as error:  # whatever a value makes of an expression
            told = f"row {record.number}: --template: {error}; the columns are {', '.join(fields)}"
            raise RowError("template_failed", told[:500]) from None
        if not text:
            raise RowError("empty_prompt", f"row {record.number}: --template makes an empty prompt of it")
        return text
