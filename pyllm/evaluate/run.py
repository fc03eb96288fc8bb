"""Puts a task's questions to a model, many at a time; choices share their prompt in the prefix cache."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyllm.engine_thread import Mail, opened
from pyllm.errors import PyllmError
from pyllm.evaluate.questions import Choice, Open, Question, Task, last_number
from pyllm.generation import Request, Work
from pyllm.sampling import SamplingParams
from pyllm.scoring import encode_pair, score_job

if TYPE_CHECKING:
    from pyllm.llm import LLM

IN_FLIGHT = 128  # requests: some wait in the engine, so that no place there is free for a step


@dataclass(frozen=True)
class Answer:
    """To one question. right: by each metric of its kind. scores: of the choices, natural logarithms."""

    line: int
    right: dict[str, bool]
    answer: int | str
    scores: tuple[float, ...] = ()


def answer_task(
    llm: LLM, task: Task, chat: bool = False, done: Callable[[int, int], None] = lambda count, of: None
) -> list[Answer]:
    """The answers in the order of the questions. chat: questions are a user's messages in the model's template.

    done: hears after each answer how many of how many there are. PyllmError names the line of a question that
    does not fit the context, before anything is computed.
    """
    jobs = []
    for question in task.questions:
        try:
            made = _jobs(llm, task.preamble, question, chat)
            for job in made:
                room = llm.context - (question.max_tokens if isinstance(question, Open) else 0)
                if len(job.tokens) > room:
                    raise PyllmError(
                        f"{len(job.tokens)} tokens are more than the {max(room, 0)} that the context of "
                        f"{llm.context} has for them; --context or fewer --shots may help"
                    )
        except PyllmError as error:
            raise PyllmError(f"{task.name}, line {question.line}: {error}") from error
        jobs.append(made)
    found: dict[int, Answer] = {}
    for number, results in _results(llm, jobs):
        question = task.questions[number]
        judge = _chosen if isinstance(question, Choice) else _written
        found[number] = judge(question, results)
        done(len(found), len(jobs))
    return [found[number] for number in range(len(jobs))]


def _jobs(llm: LLM, preamble: str, question: Question, chat: bool) -> list[Work[Any]]:
    prompt = preamble + question.prompt
    tokens = llm.chat_tokens([{"role": "user", "content": prompt}]) if chat else []
    if isinstance(question, Open):
        params = SamplingParams(max_tokens=question.max_tokens, temperature=0.0, stop=question.stop)
        if chat:
            return [llm.job(tokens, llm.chat_params(params))]
        return [llm.job(llm.tokenizer.encode(prompt), params)]
    jobs: list[Work[Any]] = []
    for choice in question.choices:
        if chat:
            ending = llm.tokenizer.encode(choice, add_bos=False, continued=True)
            jobs.append(score_job(tokens + ending, len(tokens)))
        else:
            jobs.append(score_job(*encode_pair(llm.tokenizer, prompt, question.delimiter + choice)))
    return jobs


def _results(llm: LLM, questions: Sequence[Sequence[Work[Any]]]) -> Iterator[tuple[int, list[Any]]]:
    """(number of the question, what each of its jobs gave) as they end.

    A question's first job goes before its others, which find the prompt's keys and values computed. The very
    first goes alone, as examples may begin all prompts.
    """
    box: queue.SimpleQueue[Mail] = queue.SimpleQueue()
    running: dict[int, tuple[int, int, Request[Any]]] = {}
    others: deque[tuple[int, int]] = deque()
    fresh = iter(range(len(questions)))
    found: dict[int, dict[int, Any]] = {}

    def next_job() -> tuple[int, int] | None:
        if others:
            return others.popleft()
        number = next(fresh, None)
        return None if number is None else (number, 0)

    try:
        most = 1
        while True:
            while len(running) < most and (chosen := next_job()) is not None:
                number, place = chosen
                request = llm.submit(questions[number][place], box)
                running[request.id] = number, place, request
            if not running:
                return
            now, events = opened(box.get())
            for event in events:
                if event.id not in running:
                    continue  # of a request that a stop string has ended
                number, place, request = running[event.id]
                piece = request.take(event, now)
                if not request.done:
                    continue
                del running[event.id]
                llm.cancel(request)
                most = IN_FLIGHT
                results = found.setdefault(number, {})
                results[place] = piece
                if place == 0:
                    others.extend((number, other) for other in range(1, len(questions[number])))
                if len(results) == len(questions[number]):
                    yield number, [result for _, result in sorted(found.pop(number).items())]
    finally:
        for _, _, request in running.values():
            llm.cancel(request)


def _chosen(question: Any, scores: Sequence[float]) -> Answer:
    """acc: the most probable choice is right. acc_norm: per character of the choice, as longer ones are less
    probable. Both as lm-evaluation-harness defines them; of equals the first."""
    places = range(len(scores))
    best = max(places, key=lambda i: scores[i])
    best_norm = max(places, key=lambda i: scores[i] / len(question.choices[i]))
    right = {"acc": best == question.right, "acc_norm": best_norm == question.right}
    return Answer(question.line, right, best, tuple(scores))


def _written(question: Any, pieces: Sequence[Any]) -> Answer:
    text = pieces[0].completion.text.strip()
    if question.match == "number":
        number = last_number(text)
        same = number is not None and any(
            float(number) == float(last_number(a) or "nan") for a in question.right
        )
    else:
        same = text in [answer.strip() for answer in question.right]
    return Answer(question.line, {"exact_match": same}, text)
