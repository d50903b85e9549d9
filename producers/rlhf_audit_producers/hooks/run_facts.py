"""What ``run_start`` says: model, arguments, code, packages, machine.

Facts that cannot be had are null; none of them may stop a training. Keys,
tokens and folders of the user's machine never get into the record: argument
names that suggest one are left out, a value that looks like a path or an address
is replaced, and the path of a model is told by its last part.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rlhf_audit_ledger.domain import domain
from rlhf_audit_producers.hooks.gradient_stats import local_part

MAX_DIGESTED_BYTES = 2 << 30  # about a second of SHA-256, once, before the first step
MAX_PATH = 4096
_PARAMETERS = domain("model-parameters")
_PACKAGES = (
    "torch", "transformers", "trl", "accelerate", "datasets", "peft", "opacus", "deepspeed", "numpy", "tokenizers",
    "safetensors", "rlhf-audit-trail",
)  # fmt: skip
_SECRET = ("token", "key", "secret", "password", "credential")
_FOLDERS = ("output_dir", "logging_dir", "run_name", "_path", "_dir", "file", "url", "endpoint")
_GIT_SECONDS = 2
HIDDEN_PATH = "<path>"  # what stands for a value that is one: that it was given can matter
_PATH = re.compile(
    r"""
    (?:^|[\s=:,;'"(\[]) (?: ~?/+[^\s/] | \.{1,2}[/\\] | [A-Za-z]:[/\\] | \\\\ )  # a root, here, a drive, a share
    | [\w.+-]+://  # an address, a file: URL
    | ^[^\s/\\]+(?:[/\\][^\s/\\]+){2,}[/\\]?$ | ^[^\s]+[/\\]$  # a/b/c, but not the model org/name
    | ^[^\s{]+\.(?:json|jsonl|ya?ml|toml|ini|cfg|csv|tsv|txt|pt|pth|bin|ckpt|safetensors|py|parquet|arrow)$
    """,
    re.VERBOSE | re.IGNORECASE,
)


def environment_facts() -> dict[str, Any]:
    """Packages, Python, machine and the commit of the script's working tree."""
    packages = []
    for name in _PACKAGES:
        try:
            packages.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    commit, is_dirty = _commit()
    return {
        "packages": packages,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "code_commit": commit,
        "is_code_dirty": is_dirty,
        **_device(),
    }


def model_facts(model: Any, *, digest: bool = True) -> dict[str, Any]:
    """Name, class, configuration, sizes and, if not too large, a digest of all parameters."""
    parameters = list(model.named_parameters())
    config: Any = getattr(model, "config", None)
    facts: dict[str, Any] = {
        "model_name": model_name(model),
        "model_class": type(model).__name__,
        "model_config_sha256": None,
        "parameter_count": sum(one.numel() for _, one in parameters),
        "trainable_count": sum(one.numel() for _, one in parameters if one.requires_grad),
        "model_parameters_sha256": parameters_digest(model) if digest else None,
    }
    if hasattr(config, "to_dict"):
        text = json.dumps(config.to_dict(), sort_keys=True, separators=(",", ":"), default=str)
        facts["model_config_sha256"] = hashlib.sha256(text.encode("utf-8")).digest()
    return facts


def model_name(model: Any) -> str | None:
    """The name it was loaded under; of a folder here only the last part."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or getattr(model, "name_or_path", "")
    if not name:
        return None
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else str(name)


def model_folder(model: Any) -> Path | None:
    """The folder it was loaded from, if there is one here."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return Path(name) if name and Path(name).is_dir() else None


def parameters_digest(model: Any, limit_bytes: int = MAX_DIGESTED_BYTES) -> bytes | None:
    """SHA-256 over names, types, shapes and values of all parameters, by name; None if there is too much to read.

    Replicas agree; of shards it is the digest of this rank's part.
    """
    import torch

    parameters = sorted((name, local_part(one).detach()) for name, one in model.named_parameters())
    if sum(one.numel() * one.element_size() for _, one in parameters) > limit_bytes:
        return None
    digest = hashlib.sha256(_PARAMETERS)
    for name, one in parameters:
        about = f"{name} {one.dtype} {tuple(one.shape)}".encode()
        digest.update(len(about).to_bytes(4, "big") + about)
        if one.numel():
            digest.update(memoryview(one.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()))
    return digest.digest()


def argument_facts(arguments: Mapping[str, Any]) -> str:
    """A trainer's arguments as canonical JSON, without what may name a secret, a person or a folder.

    Names and values are judged: a path under a harmless name becomes ``HIDDEN_PATH``.
    """
    return json.dumps(
        _public(arguments), sort_keys=True, separators=(",", ":"), default=lambda value: type(value).__name__
    )


def _public(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return HIDDEN_PATH
    if isinstance(value, str):
        return HIDDEN_PATH if _is_path(value) else value
    if isinstance(value, list | tuple | set | frozenset):
        return [_public(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {str(name): _public(one) for name, one in value.items() if one is not None and not _is_private(str(name))}


def _is_path(value: str) -> bool:
    """Whether a text looks like a path or an address, or is the name of a thing with a folder in it that is here."""
    if _PATH.search(value):
        return True
    try:
        return ("/" in value or os.sep in value) and len(value) < MAX_PATH and Path(value).exists()
    except (OSError, ValueError):
        return False


def _is_private(name: str) -> bool:
    folded = name.lower()
    words = folded.split("_")
    return any(word in words for word in _SECRET) or any(folded == one or folded.endswith(one) for one in _FOLDERS)


def _device() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    cuda = torch.cuda
    count = cuda.device_count() if cuda.is_available() else 0
    return {"device": cuda.get_device_name() if count else "cpu", "device_count": count or 1}


def _commit() -> tuple[str | None, bool | None]:
    script = Path(sys.argv[0] or ".").absolute()
    folder = script.parent if script.is_file() else Path.cwd()
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None, None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return head, None if changed is None else bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
