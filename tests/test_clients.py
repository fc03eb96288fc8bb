"""Clients that people use beside openai's and anthropic's own: LangChain and LiteLLM, unchanged.

They are large: pip install '.[clients]' brings them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scripted import scripted
from serving import Serving, serving, tiny_model

from pyllm.llm import LLM
from pyllm.sampling import SamplingParams

HI = [{"role": "user", "content": "Hi there, how are you?"}]
CALM = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
CALL = 'I will look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
# Of the clients' own code.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
TEXTS = ["Hi there", "a rather longer text about nothing at all"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Serving]:
    path = tiny_model(tmp_path_factory.mktemp("model"))
    with serving(lambda: LLM(path, threads=1, pack=False)) as running:
        yield running


@pytest.fixture(scope="module")
def llm(server: Serving) -> LLM:
    return server.service.models[0].llm


@pytest.fixture(scope="module")
def calls() -> Iterator[Serving]:
    with scripted(lambda: CALL) as (running, _):
        yield running


@pytest.fixture(scope="module")
def run() -> Iterator[Any]:
    """Runs coroutines: all on one loop, as the clients keep connections from call to call."""
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.close()


# -- LangChain -------------------------------------------------------------------------------------------------


class LangChain:
    """langchain-openai's classes for a server."""

    def __init__(self) -> None:
        self._module = pytest.importorskip("langchain_openai", reason="needs langchain-openai: '.[clients]'")

    def chat(self, server: Serving, **options: Any) -> Any:
        return self._module.ChatOpenAI(
            model="tiny", base_url=f"{server.base}/v1", api_key="x", max_retries=0, temperature=0, **options
        )

    def embeddings(self, server: Serving, **options: Any) -> Any:
        # By itself it sends the ids of OpenAI's tokenizer.
        options = {"check_embedding_ctx_length": False, **options}
        return self._module.OpenAIEmbeddings(
            model="tiny", base_url=f"{server.base}/v1", api_key="x", max_retries=0, **options
        )


@pytest.fixture(scope="module")
def langchain() -> LangChain:
    return LangChain()


def calm(langchain: LangChain, server: Serving, **options: Any) -> Any:
    return langchain.chat(server, max_tokens=8, extra_body={"ignore_eos": True}, **options)


def test_langchain_answers(langchain: LangChain, server: Serving, llm: LLM, run: Any) -> None:
    expected = llm.chat(HI, CALM)
    chat = calm(langchain, server)
    message = chat.invoke(HI)
    assert message.content == expected.text
    assert message.usage_metadata["output_tokens"] == 8
    assert message.response_metadata["finish_reason"] == "length"
    assert run(chat.ainvoke(HI)).content == expected.text
    assert [one.content for one in chat.batch([HI] * 3)] == [expected.text] * 3


def test_langchain_streams(langchain: LangChain, server: Serving, llm: LLM, run: Any) -> None:
    expected = llm.chat(HI, CALM)
    chat = calm(langchain, server, stream_usage=True)
    parts = list(chat.stream(HI))
    assert "".join(part.content for part in parts) == expected.text
    assert [part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata] == [8]

    async def collect() -> str:
        return "".join([part.content async for part in chat.astream(HI)])

    assert run(collect()) == expected.text


def test_langchain_logprobs(langchain: LangChain, server: Serving) -> None:
    message = calm(langchain, server, logprobs=True, top_logprobs=2).invoke(HI)
    content = message.response_metadata["logprobs"]["content"]
    assert [len(item["top_logprobs"]) for item in content] == [2] * 8


@pytest.mark.parametrize("responses", [False, True])
def test_langchain_tools(langchain: LangChain, calls: Serving, responses: bool) -> None:
    chat = langchain.chat(calls, use_responses_api=responses).bind_tools([WEATHER])
    message = chat.invoke(HI)
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("weather", {"city": "Paris"})]
    whole = None
    for part in chat.stream(HI):
        whole = part if whole is None else whole + part
    assert whole is not None
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("weather", {"city": "Paris"})]
    result = {"role": "tool", "content": "sunny", "tool_call_id": message.tool_calls[0]["id"]}
    assert chat.invoke([*HI, message, result]).tool_calls


def test_langchain_responses(langchain: LangChain, server: Serving, llm: LLM) -> None:
    expected = llm.chat(HI, CALM)
    message = calm(langchain, server, use_responses_api=True).invoke(HI)
    assert message.text == expected.text


def test_langchain_embeddings(langchain: LangChain, server: Serving, llm: LLM, run: Any) -> None:
    expected = np.array(llm.embed(TEXTS))
    embeddings = langchain.embeddings(server)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, rtol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), expected[0], rtol=1e-6)
    np.testing.assert_allclose(run(embeddings.aembed_query(TEXTS[0])), expected[0], rtol=1e-6)
    assert len(langchain.embeddings(server, dimensions=7).embed_query(TEXTS[0])) == 7


# -- LiteLLM ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the web for prices
    return pytest.importorskip("litellm", reason="needs litellm: '.[clients]'")


def at(server: Serving, **fields: Any) -> dict[str, Any]:
    fields = {"model": "openai/tiny", "api_base": f"{server.base}/v1", **fields}
    return {"api_key": "x", "num_retries": 0, "max_retries": 0, **fields}


def asking(server: Serving, **fields: Any) -> dict[str, Any]:
    fields = {"max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}, **fields}
    return at(server, messages=HI, **fields)


def test_litellm_answers(litellm: Any, server: Serving, llm: LLM, run: Any) -> None:
    expected = llm.chat(HI, CALM)
    done = litellm.completion(**asking(server, logprobs=True, top_logprobs=2))
    assert done.choices[0].message.content == expected.text
    assert done.usage.completion_tokens == 8
    assert [len(item.top_logprobs) for item in done.choices[0].logprobs.content] == [2] * 8
    done = run(litellm.acompletion(**asking(server)))
    assert done.choices[0].message.content == expected.text


def test_litellm_streams(litellm: Any, server: Serving, llm: LLM, run: Any) -> None:
    expected = llm.chat(HI, CALM)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    parts = list(litellm.completion(**asking(server, **options)))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == expected.text
    assert [part.usage.completion_tokens for part in parts if getattr(part, "usage", None)] == [8]

    async def collect() -> str:
        stream = await litellm.acompletion(**asking(server, stream=True))
        return "".join([part.choices[0].delta.content or "" async for part in stream])

    assert run(collect()) == expected.text


def test_litellm_tools(litellm: Any, calls: Serving) -> None:
    done = litellm.completion(**at(calls, messages=HI, tools=[WEATHER]))
    (call,) = done.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')
    parts = list(litellm.completion(**at(calls, messages=HI, tools=[WEATHER], stream=True)))
    whole = litellm.stream_chunk_builder(parts, messages=HI)
    (call,) = whole.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')


def test_litellm_speaks_anthropics_form(litellm: Any, server: Serving, calls: Serving) -> None:
    def claude(server: Serving, **fields: Any) -> Any:
        fields = {
            "model": "anthropic/tiny",
            "api_base": server.base,
            "messages": HI,
            "max_tokens": 300,
            **fields,
        }
        return litellm.completion(**at(server, **fields))

    assert claude(server, max_tokens=8).usage.completion_tokens <= 8
    (call,) = claude(calls, tools=[WEATHER]).choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')


def test_litellm_completions_responses_and_embeddings(litellm: Any, server: Serving, llm: LLM) -> None:
    expected = llm.generate("Hi there", CALM)[0].text
    options = {"max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}}
    fields = at(server, model="text-completion-openai/tiny", prompt="Hi there", **options)
    assert litellm.text_completion(**fields).choices[0].text == expected
    done = litellm.responses(**at(server, input=HI, max_output_tokens=20, temperature=0))
    (message,) = done.output
    assert message.content[0].text == llm.chat(HI, SamplingParams(max_tokens=20, temperature=0)).text
    made = litellm.embedding(**at(server, input=TEXTS, encoding_format="float"))
    np.testing.assert_allclose([item["embedding"] for item in made.data], llm.embed(TEXTS), rtol=1e-6)
