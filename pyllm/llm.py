"""LLM: one model, ready to answer. It owns the engine and the thread that steps it."""

from __future__ import annotations

import queue
import sys
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from pyllm.completion import Completion, Logprob, Piece, Timings, Usage
from pyllm.constraint import Constraint
from pyllm.engine_thread import EngineThread, Mail, Mailbox, opened
from pyllm.errors import PyllmError
from pyllm.generation import Job, Request, Work
from pyllm.sampling import SamplingParams

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from pyllm import _core
    from pyllm.embedding import EmbedJob, Pooling
    from pyllm.masks import Masks
    from pyllm.packing import Packing
    from pyllm.template import ChatTemplate
    from pyllm.tokenizer import Tokenizer

__all__ = [
    "LLM",
    "Completion",
    "Config",
    "Constraint",
    "Logprob",
    "Piece",
    "SamplingParams",
    "Timings",
    "Usage",
]

Prompt: TypeAlias = "str | Sequence[int]"
Message: TypeAlias = "Mapping[str, Any]"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Config:
    """A model's sizes. `context_length`: tokens that it was made for."""

    architecture: str
    context_length: int
    vocab: int
    dim: int
    layers: int
    kv_bytes_per_token: int


class LLM:
    """A model loaded for generation.

    model: a catalogue name (pulled at first use), the path of a .gguf file, or None for the default model.
    threads: CPU threads, 0 for as many as the process may use. isa: instruction set to force, "" for the best.
    precise: activations of quantized layers in 15 bits rather than 8, for twice the arithmetic.
    pack: weights in the layout that the processor wants, kept in the cache folder for the next start. False: in
    the file's own, which saves memory and costs time.
    context: tokens that one sequence may have, 0 for what the model was made for.
    kv_bytes: memory for keys and values, 0 to decide by what is free. kv_type: what they are kept in, "f16",
    "q8_0" (about half the memory), "q8_q4" (keys in 8 bits, values in 4: 40 %), "q6_q4" (34 %) or
    "q4_0" (28 %, at a loss).
    max_batch_tokens: tokens computed in one step. max_sequences: sequences running at once, 0 to decide.
    prefix_cache: reuse the keys and values of prompts that begin alike.
    device: "cpu", "cuda", "cuda:1", or "auto" for a GPU where one can be used. gpu_layers: how many of the last
    layers go there, None for as many as fit; `pyllm plan` tells beforehand.
    activations: gathers what flows through the model (pyllm.calibration).

    Several threads may use one LLM; whatever they ask for runs in one continuous batch. close() it, or use it
    as a context manager; one that is dropped closes itself. Errors are PyllmError.
    Attributes: tokenizer, template, config (a Config), context (tokens), device (a text), load_s (seconds).
    """

    _computes: Mapping[str, Any] | None = None

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        threads: int = 0,
        context: int = 0,
        kv_bytes: int = 0,
        max_batch_tokens: int = 512,
        max_sequences: int = 0,
        isa: str = "",
        precise: bool = False,
        kv_type: str = "f16",
        pack: bool = True,
        prefix_cache: bool = True,
        device: str = "auto",
        gpu_layers: int | None = None,
        activations: _core.Activations | None = None,
    ) -> None:
        from pyllm import _core
        from pyllm.masks import Masks
        from pyllm.models import resolve
        from pyllm.packing import Packing
        from pyllm.plan import Demand, plan_model

        path = resolve(model)
        started = time.perf_counter()
        file = _core.GgufFile(path)
        demand = Demand(gpu_layers, context, kv_bytes, max_batch_tokens, max_sequences, kv_type, pack)
        plan = plan_model(file, device, demand)
        packing = Packing(file) if pack else None
        # What is kept is mapped, and need not be in memory; what macOS tells of free memory is a guess.
        if packing and not packing.found and sys.platform != "darwin":
            plan.check_weights()
        compute: dict[str, Any] = {"threads": threads, "isa": isa, "precise": precise, "kv_type": kv_type}
        compute["activations"] = activations
        if plan.uses_device:
            compute |= {"layer_devices": plan.layer_devices, "head_device": plan.head_device}
            compute["embedding_device"] = plan.embedding_device
        # The weights and the vocabulary, side by side.
        loading = _Background(lambda: _weights(file, packing, **compute))
        try:
            tokenizer = _tokenizer(file)
            weights = loading.result()
        except BaseException:
            if packing:
                packing.cancel()
            loading.end()
            raise
        masks = Masks(tokenizer, weights.vocab, lambda: _template_text(file))
        engine = _core.Engine(
            weights,
            masks=masks,
            eos=sorted(tokenizer.stop_ids),
            context=context,
            kv_bytes=kv_bytes,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            prefix_cache=prefix_cache,
            scratch_bytes=plan.reserve,
        )
        self.device = plan.describe()
        config = Config(
            architecture=weights.architecture,
            context_length=weights.context_length,
            vocab=weights.vocab,
            dim=weights.dim,
            layers=weights.layers,
            kv_bytes_per_token=weights.kv_block_bytes // 16,
        )
        # All that changes the bits of keys and values, and their form.
        self._computes = {
            "isa": _core.active_isa(isa),
            "precise": precise,
            "kv_type": kv_type,
            "device": self.device,
            "layers": list(plan.layer_devices),
            "embedding": plan.embedding_device,
        }
        self._own(engine, tokenizer, file, config, time.perf_counter() - started, packing, masks)
        if packing:
            packing.keep(whole=not plan.uses_device)

    def _own(
        self,
        engine: _core.Engine,
        tokenizer: Tokenizer,
        file: _core.GgufFile,
        config: Config,
        load_s: float,
        packing: Packing | None = None,
        masks: Masks | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.load_s = load_s  # seconds from the file to ready
        self._file = file
        self._packing = packing
        self._masks = masks
        self._template: ChatTemplate | None = None
        self._breakers: dict[tuple[str, ...], list[list[int]]] = {}
        self.context = engine.context  # tokens that one sequence may have
        self._thread = EngineThread(engine)
        # Unlike __del__, this also ends the thread before the interpreter goes away under it.
        self._closer = weakref.finalize(self, self._thread.close)

    # -- answers -----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Completion]:
        """Continues each prompt, all in one continuous batch.

        prompts: a text, a sequence of token ids, or a list of either. Text gets the model's beginning-of-text
        token where it wants one, and never becomes control tokens.
        params: for all prompts, or one for each.
        Returns params.n completions per prompt, in the order of the prompts.

        PyllmError when one of the prompts fails; it says which, and the others are cancelled.
        """
        many = _prompts(prompts)
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(many)
        if len(params) != len(many):
            raise PyllmError(f"params: expected one, or {len(many)} for {len(many)} prompts, got {len(params)}")
        jobs = []
        for i, (prompt, p) in enumerate(zip(many, params, strict=True)):
            with _naming(i, len(many)):
                jobs.append(self.job(self._encode(prompt), p))
        answers = {(n, p.answer): p.completion for n, p in self._run(jobs) if p.completion is not None}
        return [answers[key] for key in sorted(answers)]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Generator[Piece, None, None]:
        """Continues `prompt` piece by piece as they come; a Piece is a str that knows its tokens.

        With params.n > 1 the pieces of all answers come interleaved (Piece.answer). Leaving the loop, or
        closing the iterator, cancels the request.
        """
        return self._pieces(self.job(self._encode(prompt), params or SamplingParams()))

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_arguments: Any,
    ) -> Completion:
        """The model's answer to a conversation: [{"role": "user", "content": "Hi"}, ...].

        tools, and arguments such as enable_thinking, go to the model's chat template; one without a place for
        tools gets a description of them in the system message. Without params the answer may be as long as the
        context lasts. With params.n > 1: the first answer; use chat_all for all of them.
        """
        return self.chat_all(messages, params, tools=tools, **template_arguments)[0]

    def chat_all(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_arguments: Any,
    ) -> list[Completion]:
        """As chat(), all params.n answers."""
        tokens = self.chat_tokens(messages, tools=tools, **template_arguments)
        return self.generate([tokens], self.chat_params(params))

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_arguments: Any,
    ) -> Generator[Piece, None, None]:
        """As chat(), piece by piece."""
        tokens = self.chat_tokens(messages, tools=tools, **template_arguments)
        return self.stream(tokens, self.chat_params(params))

    def chat_tokens(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_arguments: Any,
    ) -> list[int]:
        """The prompt that chat() gives the model. Only the template's own text becomes control tokens."""
        return self.template.encode(messages, tools=tools, **template_arguments)

    def chat_params(self, params: SamplingParams | None = None) -> SamplingParams:
        """What chat() makes of its params: None for as long as the context lasts; the template's own stops."""
        params = params or SamplingParams(max_tokens=None)
        return replace(params, stop=params.stop + self.template.stop) if self.template.stop else params

    def embed(
        self, texts: Prompt | Sequence[Prompt], pooling: Pooling | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """A vector for each text, float32 [dim] of length 1, all in one continuous batch.

        texts: a text, a sequence of token ids, or a list of either. Text gets the tokens at its beginning and
        end that the model wants.
        pooling: "last" (the last token's hidden state) or "mean" (over all tokens). None: what the model was
        made for, "last" where its file does not say.

        PyllmError when one of the texts fails; it says which, and the others are cancelled.
        """
        many = _prompts(texts)
        jobs = []
        for i, text in enumerate(many):
            with _naming(i, len(many), "texts"):
                jobs.append(self.embed_job(text, pooling))
        found = {number: embedding.vector for number, embedding in self._run(jobs, "texts")}
        return [found[number] for number in range(len(jobs))]

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after each of `tokens`: [token, vocab]. Nothing is sampled and no other request disturbed."""
        import numpy as np

        return np.concatenate(list(self.logits_in_parts(tokens)))

    def logits_in_parts(
        self, tokens: Sequence[int], **options: Any
    ) -> Generator[npt.NDArray[np.float32], None, None]:
        """As logits(), some rows at a time as they come: a row is as wide as the vocabulary."""
        from pyllm import _core

        box: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        request = self._thread.submit(list(tokens), _core.SamplingParams(), box, want_logits=True, **options)
        try:
            while True:
                for event in opened(box.get())[1]:
                    if event.finish_reason == "error":
                        raise PyllmError(event.detail)
                    if event.logits is not None:
                        yield event.logits
                    if event.finish_reason:
                        return
        finally:
            self._thread.cancel(request)

    # -- for callers that wait in their own way ----------------------------------------------------------------

    def job(self, tokens: list[int], params: SamplingParams, trusted: bool = True) -> Job:
        """A prompt and how to continue it, checked. PyllmError names what is wrong. Not trusted: a constraint
        must be one that is compiled within a second."""
        if not tokens:
            raise PyllmError("the prompt is empty: expected at least one token")
        core = params.to_core(self._breaker_tokens)
        core.validate(self.config.vocab)
        return Job(tokens, params, core, self._constrained(params, trusted))

    def embed_job(self, text: Prompt, pooling: Pooling | None = None, default: Pooling = "last") -> EmbedJob:
        """As job(), for a text's embedding. default: the pooling where neither `pooling` nor the model says."""
        from pyllm.embedding import embed_job, own_pooling

        tokens, vocabulary = self._encode(text), self.tokenizer.vocabulary
        if isinstance(text, str) and vocabulary.add_eos and vocabulary.eos is not None:
            tokens.append(vocabulary.eos)
        return embed_job(tokens, pooling or own_pooling(self._file, self.config.architecture) or default)

    def submit(self, job: Work[_T], box: Mailbox, **options: Any) -> Request[_T]:
        """Starts a job. The engine's thread puts its events into `box`, one list per step, beside those of the
        box's other requests; feed them to what this returns, and cancel() it in the end.

        options: priority (the smaller goes first), cache_salt (prompts share prefixes only under the same one).
        """
        started = time.perf_counter()
        id = self._thread.submit(job.tokens, job.core, box, **job.wants, **options)
        return job.begin(id, self.tokenizer, started, self.load_s)

    def cancel(self, request: Request[Any]) -> None:
        """Ends a request in the engine, if it still runs there."""
        self._thread.cancel(request.id)

    # -- keys and values ---------------------------------------------------------------------------------------

    def save_kv(
        self, tokens: Sequence[int], path: str | os.PathLike[str], stop: Callable[[], None] = lambda: None
    ) -> int:
        """Writes the keys and values that the prefix cache holds of the beginning of `tokens` to a file that
        only the user may read, and that appears when it is whole. Returns the tokens written (whole blocks);
        0: none, and no file.

        stop: called often; may raise, to end it. OSError, PyllmError.
        """
        from pathlib import Path

        from pyllm import kv_file

        content, key, name = self._kv_identity(threads=1)
        return kv_file.save(self._thread.engine, tokens, Path(path), content, key, name, stop)

    def load_kv(self, path: str | os.PathLike[str]) -> list[int]:
        """Puts what save_kv() wrote into the prefix cache, as far as there is room; the tokens that need not be
        computed any more. The same bits come of it as of computing them.

        PyllmError says why it cannot be used: damaged, or computed by another model, engine, device or kv_type.
        """
        from pathlib import Path

        from pyllm import kv_file
        from pyllm.pack_file import BadPackError
        from pyllm.private_files import UntrustedError

        try:
            content, key, _ = self._kv_identity()
            return kv_file.load(self._thread.engine, Path(path), content, key, self.config.vocab)
        except UntrustedError as error:
            raise PyllmError(str(error)) from error
        except BadPackError as error:
            raise PyllmError(f"{path}: {error}") from error
        except OSError as error:
            raise PyllmError(f"{path}: {error.strerror or error}") from error

    def _kv_identity(self, threads: int = 0) -> tuple[str, str, str]:
        """The model's content, what computes here, and the model's name."""
        from pathlib import Path

        from pyllm import kv_file, packs
        from pyllm.pack_file import BadPackError

        if self._computes is None:
            raise PyllmError("this engine's keys and values cannot be kept")
        try:
            content = packs.model_content(self._file, threads)
        except BadPackError as error:
            raise PyllmError(str(error)) from error
        return content, kv_file.fingerprint(self._computes), Path(self._file.path).name

    # -- the model ---------------------------------------------------------------------------------------------

    @property
    def template(self) -> ChatTemplate:
        """The model's chat template; a plain one where the file has none."""
        if self._template is None:
            from pyllm.template import ChatTemplate

            self._template = ChatTemplate.from_gguf(self._file, self.tokenizer)
        return self._template

    def is_complete(self, completion: Completion, constraint: Constraint | None) -> bool:
        """Whether it is all that `constraint` asks for; what ended by length may be its beginning."""
        if constraint is None or self._masks is None or completion.finish_reason != "length":
            return True
        return self._masks.complete(constraint, completion.token_ids)

    def stats(self) -> dict[str, int]:
        """What the engine does: sequences running and waiting, KV blocks, prefix hits, preemptions, tokens."""
        return self._thread.stats()

    @property
    def ended(self) -> str:
        """Why nothing more can be asked: the engine's own failure, or close(). "" while it runs."""
        return self._thread.ended

    def settle(self) -> None:
        """Waits until the packed weights of a first start are kept for the next one: for measurements."""
        if self._packing:
            self._packing.finish()

    def close(self) -> None:
        """Ends the engine and frees its memory. What still runs fails with a PyllmError; so do later calls."""
        self._closer()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is KeyboardInterrupt and self._packing:
            self._packing.cancel()
        self.close()

    # -- inside ------------------------------------------------------------------------------------------------

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        if not prompt:
            raise PyllmError("the prompt is empty: expected at least one character")
        return self.tokenizer.encode(prompt)

    def _pieces(self, job: Job) -> Generator[Piece, None, None]:
        for _, piece in self._run([job]):
            yield piece

    def _run(self, jobs: Sequence[Work[_T]], name: str = "prompts") -> Iterator[tuple[int, _T]]:
        """All jobs as one batch: (which job, piece) as they come. Ending it early cancels what still runs."""
        box: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        running: dict[int, tuple[int, Request[_T]]] = {}
        try:
            for number, job in enumerate(jobs):
                with _naming(number, len(jobs), name):
                    request = self.submit(job, box)
                    running[request.id] = number, request
            while running:
                now, events = opened(box.get())
                for event in events:
                    if event.id not in running:
                        continue  # of a request that a stop string has ended
                    number, request = running[event.id]
                    with _naming(number, len(jobs), name):
                        piece = request.take(event, now)
                    if request.done:
                        del running[event.id]
                        self.cancel(request)
                    if piece is not None:
                        yield number, piece
        finally:
            for _, request in running.values():
                self.cancel(request)

    def _constrained(self, params: SamplingParams, trusted: bool) -> list[Any]:
        """States of the answers' constraint for the engine; none where there is none."""
        if params.constraint is None:
            return []
        if self._masks is None:
            raise PyllmError("constraint: this engine cannot honour it")
        return self._masks.states(params.constraint, params.n, trusted)

    def _breaker_tokens(self, breakers: tuple[str, ...]) -> list[list[int]]:
        """Tokens whose text holds a breaker, and breakers that take several tokens."""
        if breakers not in self._breakers:
            tokenizer = self.tokenizer
            pieces = [tokenizer.piece(token) for token in range(tokenizer.vocab_size)]
            found = [[i] for i, piece in enumerate(pieces) if any(breaker in piece for breaker in breakers)]
            whole = [tokenizer.encode(breaker, add_bos=False) for breaker in breakers]
            self._breakers[breakers] = found + [tokens for tokens in whole if len(tokens) > 1]
        return self._breakers[breakers]


class _Background(Generic[_T]):
    """A value computed on a thread of its own."""

    def __init__(self, compute: Callable[[], _T]) -> None:
        self._compute = compute
        self._done = threading.Event()  # joining a thread does not survive Ctrl-C everywhere
        self._thread = threading.Thread(target=self._run, name="pyllm-load")
        self._error: BaseException | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._compute()
        except BaseException as error:
            self._error = error
        self._done.set()

    def end(self) -> None:
        """Waits for it; whether it failed does not matter any more."""
        self._done.wait()
        self._thread.join()

    def result(self) -> _T:
        """Waits for it; raises what computing it raised."""
        self.end()
        if self._error is not None:
            raise self._error
        return self._value


def _weights(file: _core.GgufFile, packing: Packing | None, **options: Any) -> _core.Model:
    from pyllm import _core

    if packing is None:
        return _core.Model(file, pack=False, **options)
    with packing.shown():
        return _core.Model(file, packed=packing.weights, **options)


def _template_text(file: _core.GgufFile) -> str:
    from pyllm.template import template_text

    return template_text(file)


def _tokenizer(file: _core.GgufFile) -> Tokenizer:
    from pyllm.tokenizer import Tokenizer

    return Tokenizer.from_gguf(file)


def _prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    many: list[Any] = list(prompts)
    return [many] if many and all(isinstance(p, Integral) for p in many) else many


@contextmanager
def _naming(number: int, count: int, name: str = "prompts") -> Iterator[None]:
    """Errors say which of several prompts they are about, counting from 0 as the list does."""
    try:
        yield
    except PyllmError as error:
        if count == 1:
            raise
        raise PyllmError(f"{name}[{number}]: {error}") from error.__cause__
