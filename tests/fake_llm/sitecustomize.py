"""On the module path of a child process: pyllm's commands with a model that answers by rule, at once.

The answer to "history" is the conversation as JSON; "long" goes on until it is cancelled; "full" fails as a
full context does; "fail" fails half-way; "die" kills the process half-way; "think" reasons first; "say ..."
says the rest, in which JSON's escapes count; "count" says how often it was asked; anything else comes back in
capitals, word by word. A token is a word.
"""

import itertools
import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import pyllm.llm
from pyllm._core import GgufFile
from pyllm.completion import Completion, Logprob, Piece, Timings, Usage
from pyllm.errors import PyllmError

asked = itertools.count(1)


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
    elif text == "think":
        yield "<think>so it "
        yield "is </think>"
        yield "Yes."
    elif text == "count":
        yield f"answer {next(asked)}"
    elif text.startswith("say "):
        said = json.loads(f'"{text[4:]}"')
        for start in range(0, len(said), 5):
            yield said[start : start + 5]
            time.sleep(0.005)
    else:
        for word in text.upper().split():
            yield word + " "
            if text == "fail":
                raise PyllmError("logits: expected numbers, got NaN")
        if text == "die":
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)


class Tokenizer:
    """Every word is a token, whose id is its place in the order of appearance."""

    def __init__(self):
        self._words = []

    def encode(self, text, **options):
        found = text.split()
        for word in found:
            if word not in self._words:
                self._words.append(word)
        return [self._words.index(word) + 1 for word in found]

    def decode(self, ids, **options):
        return " ".join(map(self.piece, ids))

    def piece(self, token):
        return self._words[token - 1] + " " if 0 < token <= len(self._words) else "?"

    def special_tokens(self, reserved=""):
        return SimpleNamespace(split=lambda segments: [])

    def is_special(self, token):
        return False


class Tokens(list):
    """They know what they were made of."""


class FakeLLM:
    def __init__(self, path, **options):
        time.sleep(float(os.environ.get("FAKE_LLM_LOAD_S", "0")))
        if os.environ.get("FAKE_LLM_BROKEN"):
            raise PyllmError("blk.0.attn_q.weight: missing")
        self.options = options
        has_template = "tokenizer.chat_template" in GgufFile(str(path))
        source = os.environ.get("FAKE_LLM_TEMPLATE", "")
        self.template = SimpleNamespace(built_in=None if has_template else "plain", source=source)
        self.tokenizer = Tokenizer()
        self._arguments = {}
        self.config = SimpleNamespace(architecture="llama", kv_bytes_per_token=0)
        self.context = int(os.environ.get("FAKE_LLM_CONTEXT", "4096"))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        log("closed")

    def stats(self):
        return {"blocks_total": 10, "blocks_free": 7, "blocks_cached": 3}

    def stream(self, prompt, params):
        return self.stream_chat([{"role": "user", "content": prompt}], params)

    def stream_chat(self, messages, params, answer=0):
        asked = {"max_tokens": params.max_tokens, "temperature": params.temperature}
        log(json.dumps({**asked, **self.options, "arguments": self._arguments}))
        text = ""
        try:
            for word in words(messages):
                text += word
                ids = tuple(self.tokenizer.encode(word))
                probable = tuple(Logprob(id, -0.1, ((id, -0.1), (1, -2.5))) for id in ids)
                yield Piece(word, ids or (1,), probable if params.logprobs else None, answer)
            usage, timings = Usage(3, len(text.split()), 0), Timings(0.5, 0.1, 0.25, 1.5, 12.0, 8.0)
            ids = (1,) * len(text.split())
            yield Piece("", (), (), answer, Completion(text, ids, "stop", usage, timings, None, answer))
        finally:
            log("ended")

    # -- what chat uses ----------------------------------------------------------------------------------------

    def chat_tokens(self, messages, **arguments):
        self._arguments = arguments
        tokens = self.tokenizer.encode(" ".join(f"<{m['role']}> {m['content']}" for m in messages))
        tokens = Tokens(tokens)
        tokens.messages = messages
        return tokens

    def chat_params(self, params):
        return params

    def job(self, tokens, params):
        return SimpleNamespace(messages=tokens.messages, params=params)

    def submit(self, job, box):
        if job.messages[-1]["content"] == "full":
            raise PyllmError("the prompt has 99 tokens, the context 64")
        generation = SimpleNamespace(cancelled=False, take=lambda event, now: taken(event))
        threading.Thread(target=self._answer, args=(job, box, generation), daemon=True).start()
        return generation

    def _answer(self, job, box, generation):
        for answer in range(job.params.n):
            try:
                stream = self.stream_chat(job.messages, job.params, answer)
                for piece in stream:
                    if generation.cancelled:
                        break
                    box.put((0.0, [piece]))
                stream.close()
            except PyllmError as error:
                box.put((0.0, [error]))

    def cancel(self, generation):
        generation.cancelled = True


def taken(event):
    if isinstance(event, PyllmError):
        raise event
    return event


def log(line):
    if path := os.environ.get("FAKE_LLM_LOG"):
        with open(path, "a") as file:
            file.write(line + "\n")


pyllm.llm.LLM = FakeLLM
