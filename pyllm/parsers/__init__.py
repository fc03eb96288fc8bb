"""Parsers of what models write: content, reasoning and tool calls, as they stream.

    dialect = dialect_of(llm.template.source, llm.config.architecture)
    parser = dialect.parser(tools=tools, prompt=prompt)
    for piece in llm.stream(...):    # with SamplingParams(visible_tokens=dialect.visible_tokens(llm.tokenizer))
        deltas = parser.feed(piece)
    deltas = parser.finish()

All deltas of an answer make the same message, however its text was cut; no text is lost but markers and the
whitespace beside them. What merely looks like a call stays content. A call whose arguments are cut off or
broken has them as the model wrote them.
"""

from pyllm.parsers.delta import Call, CallArguments, CallStart, Content, Delta, Message, Reasoning, merge
from pyllm.parsers.parser import Parser
from pyllm.parsers.reasoning import THINKING
from pyllm.parsers.registry import FORMATS, Dialect, dialect_of

__all__ = [
    "FORMATS",
    "THINKING",
    "Call",
    "CallArguments",
    "CallStart",
    "Content",
    "Delta",
    "Dialect",
    "Message",
    "Parser",
    "Reasoning",
    "dialect_of",
    "merge",
]
