"""Makes rendered.json: what transformers makes of well-known models' templates in the scenes of scenes.json.

    python tests/golden/templates/make.py FOLDER_OF_JINJA_FILES

Needs transformers and jinja2. The texts are kept as checksums: the templates are their authors'.
"""

from __future__ import annotations

import copy
import json
import sys
import zlib
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = Path(__file__).resolve().parent
# It HTML-escapes texts beside `|safe` literals, which can only be an oversight; pyllm leaves them as they are.
SKIPPED = {"meetkai-functionary-medium-v3.1.jinja": ("tools", "call", "answer")}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "", "unk_token": ""}


def main() -> None:
    scenes = json.loads((HERE / "scenes.json").read_text())
    rendered: dict[str, dict[str, str]] = {}
    for path in sorted(Path(sys.argv[1]).glob("*.jinja")):
        template = _compile_jinja_template(path.read_text())
        for name, scene in scenes.items():
            if name in SKIPPED.get(path.name, ()):
                continue
            values = {"tools": None, "add_generation_prompt": True, **TOKENS, **copy.deepcopy(scene)}
            try:
                found = f"{zlib.crc32(template.render(**values).encode()):08x}"
            except Exception:
                found = "refused"
            rendered.setdefault(path.name, {})[name] = found
    (HERE / "rendered.json").write_text(json.dumps(rendered, indent=0) + "\n")


if __name__ == "__main__":
    main()
