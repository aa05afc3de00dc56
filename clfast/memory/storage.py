"""State dictionaries in safetensors files, written atomically.

A state dictionary holds tensors, a "format" that says what it is, and plain values. In the file,
the metadata entry "format" is that string and "plain" is the JSON of all other plain values. The
file is written beside its final place, flushed to the disk and renamed, so that a crash or a kill
at any moment leaves the old file or the new one, never a part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    try:
        with _files.replacement(target) as fresh:
            save_file(tensors, fresh, metadata)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{where}: {error}") from error


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
    whole safetensors file of this format.
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
            return {"format": format, **json.loads(metadata.get("plain", "{}")), **tensors}
    except SafetensorError as error:
        raise ValueError(f"{where}: no safetensors file, or a truncated one ({error})") from error
    except OSError as error:
        raise OSError(f"{where}: {error}") from error
    except (json.JSONDecodeError, TypeError, RecursionError) as error:
        raise ValueError(f"{where}: its metadata is damaged ({error})") from error
