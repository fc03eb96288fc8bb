"""pyllm's side of compare.py: reads one JSON request a line, answers with one JSON line."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pyllm import _core
from pyllm.bench.speed import Speed, Test
from pyllm.bench.work import Work
from pyllm.llm import LLM


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--sequences", type=int, required=True)
    args = parser.parse_args()
    with LLM(args.model, threads=args.threads, context=args.context, max_sequences=args.sequences) as llm:
        llm.settle()
        speed = Speed(llm)
        work = Work.of(_core.GgufFile(args.model), llm.config.kv_bytes_per_token)

        def answer(request: dict[str, Any]) -> object:
            if request["do"] == "about":
                return {"isa": _core.active_isa()}
            if request["do"] == "ceilings":
                return _core.measure_ceilings(args.threads)
            test = Test(**request["test"])
            if request["do"] == "need":
                need = work.prompt if test.test == "prompt" else work.decode
                sequences = {} if test.test == "prompt" else {"batch": test.batch}
                found = need(tokens=test.tokens, context=test.context, **sequences)
                return {"read": found.read, "operations": found.operations}
            if request["do"] == "warm_up":
                speed.check(test)
                return speed.warm_up(test)
            return speed.rate(test)

        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
