"""pyllm: run language models where you are. One GGUF file in, tokens out."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["LLM", "Completion", "Constraint", "PyllmError", "SamplingParams"]

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.llm import LLM, Completion, Constraint, SamplingParams


def __getattr__(name: str) -> object:
    # The engine and numpy load when first used: `pyllm --help` needs neither.
    if name in __all__:
        from pyllm import llm

        return getattr(llm, name)
    raise AttributeError(f"module 'pyllm' has no attribute {name!r}")
