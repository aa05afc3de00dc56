"""State dictionaries in safetensors files, written atomically.

A state dictionary holds tensors, a "format" that says what it is, and plain values. In the file,
the metadata entry "format" is that string, "plain" the JSON of all other plain values, and "crc32"
a checksum of those and of the tensors: a damaged file may still be one that safetensors can read.
The file is written beside its final place, flushed to the disk and renamed, so that a crash or a
kill at any moment leaves the old file or the new one, never a part.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import _files


def write(path: str | os.PathLike[str], state: Mapping[str, Any], where: str) -> None:
    """Put `state` into the file `path`, replacing it as a whole.

    A process that is killed meanwhile may leave a folder `.clfast-*.tmp` beside the file, which
    can be deleted.

    Raises OSError, opening with `where`, if there is no folder for the file, something other than
    a file is at `path`, or the disk does not take the data. `path` is then as before, or already
    the new file if only the last step failed, the flushing of the folder.
    """
    target = _target(path, where)
    tensors = {name: entry for name, entry in state.items() if isinstance(entry, Tensor)}
    plain = {name: entry for name, entry in state.items() if name not in tensors}
    metadata = {"format": plain.pop("format"), "plain": json.dumps(plain)}
    metadata["crc32"] = _checksum(metadata["plain"], tensors)
    try:
        with _files.replacement(target) as fresh:
            save_file(tensors, fresh, metadata)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{where}: {error}") from error


def _checksum(plain: str, tensors: Mapping[str, Tensor]) -> str:
    checksum = zlib.crc32(plain.encode())
    for name in sorted(tensors):
        content = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(content.numpy().data, checksum)
    return f"{checksum:08x}"


def _target(path: str | os.PathLike[str], where: str) -> Path:
    try:
        # The file behind a symbolic link is replaced, not the link.
        target = Path(os.path.realpath(path))
        there, regular = target.exists(), target.is_file()
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise OSError(f"{where}: {error}") from error
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{where}: there is no folder {target.parent}; create it first")
    if there and not regular:
        raise OSError(f"{where}: this is no regular file; choose another path")
    return target


def read(path: Path, format: str, where: str) -> dict[str, Any]:
    """The state, tensors on the CPU, that `write` put into a file, if it is of this format.

    Raises, opening with `where`, OSError if the file cannot be read, and ValueError if it is not a
    whole safetensors file of this format, or is damaged.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != format:
                raise ValueError(
                    f"{where}: a safetensors file of format {metadata.get('format')!r}, "
                    f"not {format!r}"
                )
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            plain = metadata.get("plain", "{}")
            state = {"format": format, **json.loads(plain), **tensors}
            if metadata.get("crc32") != _checksum(plain, tensors):
                raise ValueError(f"{where}: the file is damaged: its checksum is another one")
            return state
    except SafetensorError as error:
        raise ValueError(f"{where}: no safetensors file, or a truncated one ({error})") from error
    except OSError as error:
        raise OSError(f"{where}: {error}") from error
    except (json.JSONDecodeError, TypeError, RecursionError) as error:
        raise ValueError(f"{where}: its metadata is damaged ({error})") from error
