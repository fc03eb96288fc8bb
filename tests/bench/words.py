"""Words that the benchmarks' prompts are drawn from."""

_TEXT = "the a river house green runs slowly because when people think about light and water they often see it"
WORDS = tuple(_TEXT.split())
