"""The arrows between the layers go one way: reads every #include and every import, builds nothing."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# -- C++: python -> engine -> model -> backend -> quant -> core; gguf -> core; text -> core -------------------

MAY_INCLUDE = {
    "core": {"core"},
    "gguf": {"gguf", "core"},
    "text": {"text", "core"},
    "quant": {"quant", "core"},
    "quantize": {"quantize", "quant", "core"},
    "backend": {"backend", "quant", "core"},
    "model": {"model", "backend", "gguf", "quant", "core"},
    "engine": {"engine", "model", "backend", "quant", "core"},
    "python": {"python", "engine", "model", "backend", "gguf", "text", "quantize", "quant", "core"},
}
DEVICES = ("backend/cpu/", "backend/cuda/")
PURE = ("engine/scheduler", "engine/block_pool", "engine/prefix_cache", "engine/held_prefix")


def layer(path: str) -> str:
    return path.split("/")[0]


def reachable(start: str, includes: dict[str, list[str]]) -> dict[str, str]:
    """Every file that `start` includes directly or not, with the file that includes it."""
    found: dict[str, str] = {}
    todo = [start]
    while todo:
        path = todo.pop()
        for target in includes.get(path, []):
            if target not in found:
                found[target] = path
                todo.append(target)
    return found


def cpp_violations(includes: dict[str, list[str]]) -> list[str]:
    """Turned arrows in {file: quoted includes}, paths relative to cpp/."""
    wrong = []
    for path, targets in includes.items():
        for target in targets:
            if target not in includes:
                wrong.append(f"{path} includes {target}, which is not in cpp/")
            elif layer(target) not in MAY_INCLUDE.get(layer(path), set()):
                wrong.append(f"{path} includes {target}: {layer(path)} must not know {layer(target)}")
            elif layer(path) == "model" and layer(target) == "backend" and target != "backend/backend.h":
                wrong.append(
                    f"{path} includes {target}: a model knows a backend through backend/backend.h only"
                )
        for target, by in reachable(path, includes).items():
            if (
                path.startswith(DEVICES)
                and target.startswith(DEVICES)
                and not target.startswith(path[: path.index("/", 8) + 1])
            ):
                wrong.append(f"{path} reaches {target} through {by}: devices must not know each other")
            if layer(path) in ("model", "engine") and target.startswith(DEVICES):
                wrong.append(f"{path} reaches {target} through {by}: only backend/ and python/ know a device")
            if path.startswith(PURE) and layer(target) in ("model", "backend"):
                wrong.append(f"{path} reaches {target} through {by}: it is a pure state machine")
    return wrong


def cpp_sources() -> dict[str, str]:
    files = (path for path in (ROOT / "cpp").rglob("*") if path.suffix in (".h", ".cc", ".cu", ".cuh"))
    return {path.relative_to(ROOT / "cpp").as_posix(): path.read_text(encoding="utf-8") for path in files}


def quoted_includes(source: str) -> list[str]:
    return [target for mark, target in INCLUDE.findall(source) if mark == '"']


def test_cpp_arrows():
    assert cpp_violations({path: quoted_includes(source) for path, source in cpp_sources().items()}) == []


def test_only_the_bindings_know_python():
    wrong = [
        f"{path} includes {target}"
        for path, source in cpp_sources().items()
        for _, target in INCLUDE.findall(source)
        if target.startswith(("pybind11/", "Python.h")) and layer(path) != "python"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("core/a.h", "gguf/b.h"),
        ("gguf/a.cc", "quant/b.h"),
        ("quant/a.h", "backend/b.h"),
        ("backend/a.cc", "model/b.h"),
        ("backend/a.cc", "gguf/b.h"),
        ("model/a.cc", "engine/b.h"),
        ("model/a.cc", "backend/b.h"),
        ("model/a.cc", "backend/cpu/b.h"),
        ("engine/a.cc", "gguf/b.h"),
        ("engine/a.cc", "python/b.h"),
        ("engine/scheduler.cc", "model/b.h"),
        ("engine/block_pool.h", "backend/b.h"),
        ("backend/cpu/a.cc", "backend/cuda/b.h"),
        ("backend/cuda/a.cu", "backend/cpu/b.h"),
        ("core/a.h", "core/missing.h"),
    ],
)
def test_a_turned_cpp_arrow_is_found(path, target):
    includes = {path: [target]}
    if "missing" not in target:
        includes[target] = []
    assert cpp_violations(includes)


def test_a_turned_cpp_arrow_is_found_through_other_files():
    detour = {"engine/scheduler.cc": ["engine/a.h"], "engine/a.h": ["model/b.h"], "model/b.h": []}
    assert cpp_violations(detour) == [
        "engine/scheduler.cc reaches model/b.h through engine/a.h: it is a pure state machine"
    ]
    device = {
        "model/a.cc": ["backend/backend.h"],
        "backend/backend.h": ["backend/cpu/b.h"],
        "backend/cpu/b.h": [],
    }
    assert any("only backend/ and python/ know a device" in wrong for wrong in cpp_violations(device))


def test_arrows_that_are_allowed():
    includes = {
        "core/a.h": [],
        "gguf/reader.h": ["core/a.h"],
        "backend/backend.h": ["core/a.h"],
        "backend/cpu/a.h": ["backend/backend.h"],
        "backend/backend.cc": ["backend/cpu/a.h"],
        "model/a.cc": ["backend/backend.h", "gguf/reader.h"],
        "engine/scheduler.cc": ["core/a.h"],
        "python/a.cc": ["backend/cpu/a.h", "gguf/reader.h"],
    }
    assert cpp_violations(includes) == []


# -- Python: cli -> server -> llm -> tokenizer, template, models, _core ----------------------------------------

ABOVE = {
    "cli": 4,
    "__main__": 4,
    "server": 3,
    "bench": 3,
    "chat": 3,
    "calibration": 3,
    "quantize": 3,
    "prune": 3,
    "perplexity": 3,
    "evaluate": 3,
    "llm": 2,
    "errors": 0,
}  # everything else: 1
NOT_SIDEWAYS = {  # a template writes for a tokenizer; otherwise these do not know each other
    "tokenizer": {"template", "models"},
    "template": {"models"},
    "models": {"tokenizer", "template"},
}


def python_violations(imports: dict[str, Iterable[str]]) -> list[str]:
    """Turned arrows in {module: modules it imports}, names below `pyllm`, such as {"cli": ["llm"]}."""
    wrong = []
    for module, targets in imports.items():
        top = module.split(".")[0]
        if top == "__init__":  # the package's face: shows what llm offers
            top = "llm"
        for target in targets:
            below = target.split(".")[0]
            if ABOVE.get(below, 1) > ABOVE.get(top, 1):
                wrong.append(f"pyllm.{module} imports pyllm.{target}, which lies above it")
            if below in NOT_SIDEWAYS.get(top, set()):
                wrong.append(f"pyllm.{module} imports pyllm.{target}, which it must not know")
    return wrong


def imported(module: str, source: str, is_package: bool = False) -> set[str]:
    """Names below `pyllm` that `source` imports anywhere, in functions and for types too."""
    package = ["pyllm", *module.split(".")]
    if not is_package:
        package.pop()
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*origin, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names} if origin == "pyllm" else {origin}
    return {name.removeprefix("pyllm.") for name in found if name.startswith("pyllm.")}


def test_python_arrows():
    imports = {}
    for path in (ROOT / "pyllm").rglob("*.py"):
        parts = path.relative_to(ROOT / "pyllm").with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        imports[module] = imported(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    assert len(imports) > 1
    assert python_violations(imports) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("llm", "from pyllm.cli import main"),
        ("llm", "def f():\n    import pyllm.server.app"),
        ("server.app", "from pyllm import cli"),
        ("server.app", "from ..cli import main"),
        ("tokenizer", "from pyllm.llm import LLM"),
        ("models", "from . import llm"),
        ("models", "if TYPE_CHECKING:\n    from pyllm.llm import LLM"),
        ("tokenizer", "from pyllm.template import ChatTemplate"),
        ("errors", "from pyllm import _core"),
        ("__init__", "import pyllm.server"),
    ],
)
def test_a_turned_python_arrow_is_found(module, source):
    assert python_violations({module: imported(module, source)})


def test_python_arrows_that_are_allowed():
    imports = {
        "cli.chat": imported(
            "cli.chat", "from pyllm.llm import LLM\nfrom . import output\nfrom pyllm.server import app"
        ),
        "server.app": imported("server.app", "from pyllm import llm, models"),
        "llm": imported(
            "llm", "from pyllm import _core\nfrom pyllm.tokenizer import Tokenizer\nimport numpy, os.path"
        ),
        "models": imported("models", "from pyllm.pull import pull\nfrom pyllm.errors import PyllmError"),
    }
    assert imports["cli.chat"] == {"llm", "cli", "server"}
    assert python_violations(imports) == []
