"""On the module path of a child process: pyllm's commands with a model that answers by rule, at once.

The answer to "history" is the conversation as JSON; "long" goes on until it is cancelled; "full" fails as a
full context does; "fail" fails half-way; anything else comes back in capitals, word by word.
"""

import json
import os
import time
from types import SimpleNamespace

import pyllm.llm
from pyllm._core import GgufFile
from pyllm.completion import Completion, Piece, Timings, Usage
from pyllm.errors import PyllmError


def words(messages):
    text = messages[-1]["content"]
    if text == "history":
        yield json.dumps(messages)
    elif text == "full":
        raise PyllmError("the prompt has 99 tokens, the context 64")
    elif text == "long":
        for i in range(100_000):
            yield f"w{i} "
            time.sleep(0.01)
    else:
        for word in text.upper().split():
            yield word + " "
            if text == "fail":
                raise PyllmError("logits: expected numbers, got NaN")


class FakeLLM:
    def __init__(self, path, **options):
        self.options = options
        has_template = "tokenizer.chat_template" in GgufFile(str(path))
        self.template = SimpleNamespace(built_in=None if has_template else "plain")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        log("closed")

    def stream(self, prompt, params):
        return self.stream_chat([{"role": "user", "content": prompt}], params)

    def stream_chat(self, messages, params):
        log(json.dumps({"max_tokens": params.max_tokens, "temperature": params.temperature, **self.options}))
        text = ""
        try:
            for word in words(messages):
                text += word
                yield Piece(word, (1,))
            usage, timings = Usage(3, len(text.split()), 0), Timings(0.5, 0.1, 0.25, 1.5, 12.0, 8.0)
            yield Piece("", completion=Completion(text, (1,) * len(text.split()), "stop", usage, timings))
        finally:
            log("ended")


def log(line):
    if path := os.environ.get("FAKE_LLM_LOG"):
        with open(path, "a") as file:
            file.write(line + "\n")


pyllm.llm.LLM = FakeLLM
