"""Reasoning and tool calls in the three forms of a conversation, over an engine that plays a script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from scripted import FakeTemplate, scripted
from serving import Reply, Serving, serving, tiny_model

from pyllm.llm import LLM

openai = pytest.importorskip("openai", reason="needs the openai client")
anthropic = pytest.importorskip("anthropic", reason="needs the anthropic client")

THOUGHT = "<think>\nLet me see.\n</think>\n\n"
CALLS = (
    'I will look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris, \\"FR\\""}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)
WEATHER = {
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CLOCK = {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": function} for function in (WEATHER, CLOCK)]
HI = [{"role": "user", "content": "How is the weather?"}]
ARGUMENTS = {"city": 'Paris, "FR"'}


@pytest.fixture(scope="module")
def calls() -> Iterator[tuple[Serving, FakeTemplate]]:
    with scripted(lambda: THOUGHT + CALLS) as found:
        yield found


@pytest.fixture(scope="module")
def words() -> Iterator[tuple[Serving, FakeTemplate]]:
    with scripted(lambda: THOUGHT + "It is sunny.") as found:
        yield found


def client_of(server: Serving) -> Any:
    return openai.OpenAI(base_url=f"{server.base}/v1", api_key="x", max_retries=0, timeout=120)


def claude_of(server: Serving) -> Any:
    return anthropic.Anthropic(base_url=server.base, api_key="x", max_retries=0, timeout=120)


# --- chat completions -----------------------------------------------------------------------------------------


def test_chat_calls(calls: Any) -> None:
    server, template = calls
    done = client_of(server).chat.completions.create(model="tiny", messages=HI, tools=TOOLS, tool_choice="auto")
    (choice,) = done.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.reasoning_content == "Let me see."
    assert choice.message.content.strip() == "I will look."
    assert [call.function.name for call in choice.message.tool_calls] == ["weather", "clock"]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == ARGUMENTS
    assert len({call.id for call in choice.message.tool_calls}) == 2
    assert template.seen[-1][1] == TOOLS


def test_chat_calls_streamed(calls: Any) -> None:
    server, _ = calls
    content = reasoning = ""
    found: dict[int, dict[str, str]] = {}
    names = []
    ends = []
    for chunk in client_of(server).chat.completions.create(model="tiny", messages=HI, tools=TOOLS, stream=True):
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        for call in choice.delta.tool_calls or []:
            item = found.setdefault(call.index, {"id": call.id, "arguments": ""})
            names += [call.function.name] if call.function.name else []
            item["arguments"] += call.function.arguments or ""
        ends += [choice.finish_reason] if choice.finish_reason else []
    assert (content.strip(), reasoning) == ("I will look.", "Let me see.")
    assert names == ["weather", "clock"]
    assert json.loads(found[0]["arguments"]) == ARGUMENTS
    assert json.loads(found[1]["arguments"]) == {}
    assert all(item["id"] for item in found.values())
    assert ends == ["tool_calls"]


def test_openais_own_stream_helper(calls: Any) -> None:
    server, _ = calls
    with client_of(server).chat.completions.stream(model="tiny", messages=HI, tools=TOOLS) as stream:
        final = stream.get_final_completion()
    assert [call.function.name for call in final.choices[0].message.tool_calls] == ["weather", "clock"]


def test_the_first_call_alone_where_only_one_may_come(calls: Any) -> None:
    one: dict[str, Any] = {"model": "tiny", "messages": HI, "tools": TOOLS, "parallel_tool_calls": False}
    done = client_of(calls[0]).chat.completions.create(**one)
    assert [call.function.name for call in done.choices[0].message.tool_calls] == ["weather"]
    assert json.loads(done.choices[0].message.tool_calls[0].function.arguments) == ARGUMENTS
    assert done.choices[0].finish_reason == "tool_calls"
    parts = [chunk.choices[0] for chunk in client_of(calls[0]).chat.completions.create(**one, stream=True)]
    found = [call for part in parts for call in part.delta.tool_calls or []]
    assert [call.function.name for call in found if call.function.name] == ["weather"]
    assert parts[-1].finish_reason == "tool_calls"
    claude = claude_of(calls[0]).messages.create(
        model="tiny",
        max_tokens=500,
        messages=HI,
        tools=CLAUDE_TOOLS,
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
    )
    assert [block.name for block in claude.content if block.type == "tool_use"] == ["weather"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("answers", [1, 2])
def test_one_call_ends_the_answer(stream: bool, answers: int) -> None:
    with scripted(lambda: CALLS + " and so on" * 80, pause=0.002) as (server, _):
        body = {"messages": HI, "tools": TOOLS, "parallel_tool_calls": False, "n": answers, "max_tokens": 900}
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        reply = server.post("/v1/chat/completions", {**body, "stream": stream, **usage})
        last = reply.events[-1] if stream else reply.json
        tokens = last["usage"]["completion_tokens"] / answers
        assert CALLS.index("</tool_call>") < tokens < 900
        ends = [c["finish_reason"] for e in (reply.events if stream else [reply.json]) for c in e["choices"]]
        assert [end for end in ends if end] == ["tool_calls"] * answers
        llm = server.service.models[0].llm
        server.wait(lambda: llm.stats()["running"] == 0)


def test_without_tools_calls_are_text(calls: Any) -> None:
    server, template = calls
    done = client_of(server).chat.completions.create(model="tiny", messages=HI)
    assert done.choices[0].finish_reason == "stop"
    assert "<tool_call>" in done.choices[0].message.content
    assert done.choices[0].message.tool_calls is None
    none = client_of(server).chat.completions.create(model="tiny", messages=HI, tools=TOOLS, tool_choice="none")
    assert none.choices[0].message.tool_calls is None
    assert template.seen[-1][1] is None


def test_no_answer_is_lost_for_a_client_without_reasoning(words: Any) -> None:
    server, template = words
    reply = server.post("/v1/chat/completions", {"messages": HI, "reasoning_effort": "none"})
    message = reply.json["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "It is sunny.", "reasoning_content": "Let me see."}
    assert template.seen[-1][2] == {"enable_thinking": False}


# --- responses ------------------------------------------------------------------------------------------------


def test_responses(calls: Any) -> None:
    server, template = calls
    tools = [{"type": "function", **WEATHER}, {"type": "function", **CLOCK}, {"type": "web_search"}]
    done = client_of(server).responses.create(
        model="tiny",
        input="How is the weather?",
        instructions="Be brief.",
        tools=tools,
        reasoning={"effort": "low"},
    )
    assert [item.type for item in done.output] == ["reasoning", "message", "function_call", "function_call"]
    assert done.output_text.strip() == "I will look."
    assert done.output[0].content[0].text == "Let me see."
    assert (done.output[2].name, json.loads(done.output[2].arguments)) == ("weather", ARGUMENTS)
    assert done.status == "completed"
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    messages, tools_seen, arguments = template.seen[-1]
    assert [m["role"] for m in messages] == ["system", "user"]
    assert [tool["function"]["name"] for tool in tools_seen] == ["weather", "clock"]
    assert arguments == {"enable_thinking": True}


def test_responses_streamed(calls: Any) -> None:
    server, _ = calls
    tools = [{"type": "function", **WEATHER}]
    stream = client_of(server).responses.create(model="tiny", input=HI, tools=tools, stream=True)
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") >= 3
    whole = events[-1].response
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    thoughts = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert thoughts == "Let me see."
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    pieces = [event for event in deltas if event.item_id == whole.output[2].id]
    assert json.loads("".join(event.delta for event in pieces)) == ARGUMENTS
    assert {event.output_index for event in pieces} == {2}


def test_responses_stream_helper(calls: Any) -> None:
    server, _ = calls
    tools = [{"type": "function", **WEATHER}]
    with client_of(server).responses.stream(model="tiny", input="Hi", tools=tools) as stream:
        final = stream.get_final_response()
    assert final.output_text.strip() == "I will look."


def test_previous_responses(calls: Any) -> None:
    server, template = calls
    client = client_of(server)
    tools = [{"type": "function", **WEATHER}]
    first = client.responses.create(model="tiny", input="How is the weather?", instructions="One.", tools=tools)
    call = first.output[2]
    client.responses.create(
        model="tiny",
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        instructions="Two.",
        previous_response_id=first.id,
    )
    messages = template.seen[-1][0]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool"]
    assert messages[0]["content"] == "Two."
    assert messages[2]["reasoning_content"] == "Let me see."
    assert messages[2]["tool_calls"][0]["id"] == call.call_id == messages[3]["tool_call_id"]
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="is not kept here"):
        client.responses.create(model="tiny", input="x", previous_response_id=first.id)
    unkept = client.responses.create(model="tiny", input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "message", "role": "user"}]}, "input"),
        ({"input": [{"type": "reasoning", "content": [{"text": 1}]}]}, "input"),
        ({"input": [{"type": "reasoning", "content": 5}]}, "input"),
        ({"priority": 10**30}, "priority"),
        ({"priority": -5000}, "priority"),
        ({"cache_salt": "x" * 1025}, "cache_salt"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
    ],
)
def test_wrong_responses(calls: Any, fields: dict[str, Any], param: str) -> None:
    reply = calls[0].post("/v1/responses", {"input": "x", **fields})
    assert reply.status in (400, 404)
    assert reply.error["param"] == param


def test_a_cut_response_says_so(words: Any) -> None:
    done = client_of(words[0]).responses.create(model="tiny", input="x", max_output_tokens=5)
    assert done.status == "incomplete"
    assert done.incomplete_details.reason == "max_output_tokens"


# --- Anthropic's messages -------------------------------------------------------------------------------------


CLAUDE_TOOLS = [
    {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]}
    for f in (WEATHER, CLOCK)
]


def test_messages(calls: Any) -> None:
    server, template = calls
    done = claude_of(server).messages.create(
        model="tiny",
        max_tokens=500,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=HI,
        tools=[*CLAUDE_TOOLS, {"type": "web_search_20250305", "name": "web_search"}],
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    assert [block.type for block in done.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert done.content[0].thinking == "Let me see."
    assert (done.content[2].name, done.content[2].input) == ("weather", ARGUMENTS)
    assert (done.stop_reason, done.role) == ("tool_use", "assistant")
    assert done.usage.input_tokens + done.usage.cache_read_input_tokens == len(b"2 messages:")
    messages, tools, arguments = template.seen[-1]
    assert [m["role"] for m in messages] == ["system", "user"]
    assert tools == TOOLS
    assert arguments == {"enable_thinking": True}


def test_messages_streamed(calls: Any) -> None:
    server, _ = calls
    kinds = []
    with claude_of(server).messages.stream(
        model="tiny", max_tokens=500, messages=HI, tools=CLAUDE_TOOLS
    ) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert final.content[2].input == ARGUMENTS
    assert final.content[3].input == {}
    assert final.stop_reason == "tool_use"
    raw = server.post(
        "/v1/messages?beta=true",
        {"model": "tiny", "max_tokens": 500, "messages": HI, "stream": True, "tools": CLAUDE_TOOLS},
    )
    events = named_events(raw)
    assert [name for name, _ in events][:3] == ["message_start", "ping", "content_block_start"]
    assert [name for name, _ in events][-2:] == ["message_delta", "message_stop"]
    assert all(name == data["type"] for name, data in events)
    usage = events[0][1]["message"]["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(b"1 messages:")
    starts = [data["index"] for name, data in events if name == "content_block_start"]
    stops = [data["index"] for name, data in events if name == "content_block_stop"]
    assert starts == stops == [0, 1, 2, 3]


def named_events(reply: Reply) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in reply.body.decode().split("\n\n") if block]
    return [(b[0].removeprefix("event: "), json.loads(b[1].removeprefix("data: "))) for b in blocks]


def test_messages_replayed(words: Any) -> None:
    server, template = words
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Let me see.", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I will look."},
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "sunny"}],
                },
                {"type": "text", "text": "And?"},
            ],
        },
    ]
    client = claude_of(server)
    done = client.messages.create(model="tiny", max_tokens=100, messages=conversation, tools=CLAUDE_TOOLS)
    assert done.content[-1].text == "It is sunny."
    assert (done.stop_reason, done.stop_sequence) == ("end_turn", None)
    call = {"name": "weather", "arguments": {"city": "Paris"}}
    assert template.seen[-1][0] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "I will look.",
            "reasoning_content": "Let me see.",
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "user", "content": "And?"},
    ]
    counted = client.messages.count_tokens(model="tiny", messages=conversation)
    assert counted.input_tokens == len(b"4 messages:")
    stopped = client.messages.create(model="tiny", max_tokens=100, messages=HI, stop_sequences=["sun"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "sun")
    assert stopped.content[-1].text == "It is "
    cut = client.messages.create(model="tiny", max_tokens=3, messages=HI)
    assert cut.stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": None}, "max_tokens"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "expected a block of type text",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id: expected text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "expected object, got str"),
        ({"tool_choice": {"type": "any"}}, "needs tools"),
        ({"tool_choice": {"type": "tool", "name": "x"}}, "is no function of tools"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"tools": [{"name": 3}]}, "tools[0].name: expected text"),
        ({"model": "other"}, "is not served here"),
    ],
)
def test_wrong_messages(words: Any, fields: dict[str, Any], says: str) -> None:
    reply = words[0].post("/v1/messages", {"model": "tiny", "max_tokens": 5, "messages": HI, **fields})
    assert reply.json["type"] == "error"
    kind = "not_found_error" if reply.status == 404 else "invalid_request_error"
    assert reply.error["type"] == kind
    assert says in reply.error["message"]


# --- a template without a place for tools ---------------------------------------------------------------------


def test_every_door_describes_tools_that_the_template_drops(tmp_path: Any) -> None:
    path = tiny_model(tmp_path)
    with serving(lambda: LLM(path, threads=1)) as server:
        llm = server.service.models[0].llm
        assert not llm.template.takes_tools
        without = len(llm.chat_tokens(HI))
        with_tools = len(llm.chat_tokens(HI, tools=TOOLS))
        assert with_tools > without + 100
        client, claude = client_of(server), claude_of(server)
        chat = client.chat.completions.create(model="tiny", messages=HI, tools=TOOLS, max_tokens=1)
        assert chat.usage.prompt_tokens == with_tools
        none = client.chat.completions.create(
            model="tiny", messages=HI, tools=TOOLS, max_tokens=1, tool_choice="none"
        )
        assert none.usage.prompt_tokens == without
        flat = [{"type": "function", **function} for function in (WEATHER, CLOCK)]
        response = client.responses.create(model="tiny", input=HI, tools=flat, max_output_tokens=1)
        assert response.usage.input_tokens >= with_tools
        message: dict[str, Any] = {"model": "tiny", "messages": HI, "tools": CLAUDE_TOOLS}
        counted = claude.messages.count_tokens(**message).input_tokens
        assert counted >= with_tools
        used = claude.messages.create(**message, max_tokens=1).usage
        assert used.input_tokens + used.cache_read_input_tokens == counted
        forced = client.chat.completions.create(
            model="tiny", messages=HI, tools=TOOLS[1:], tool_choice="required", max_tokens=60
        )
        assert forced.choices[0].message.tool_calls[0].function.name == "clock"


def test_the_generic_form_is_read_where_the_template_drops_tools() -> None:
    with scripted(lambda: '{"name": "weather", "arguments": {"city": "Rome"}}') as (server, template):
        template.takes_tools = False
        done = client_of(server).chat.completions.create(model="tiny", messages=HI, tools=TOOLS)
    (call,) = done.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Rome"})
