"""Tensors whose numbers lie in files: mapped into memory, and let go of when they are not needed.

1. The mapping is shared: what is written reaches the file, and `forget` takes its pages out of this process without
   losing a number. Touching the tensor brings them back.
2. Many tensors share a file and a mapping: a process may have a thousand files open, a model has more tensors.
3. Pages that were forgotten may stay in the system's cache as long as nobody needs the memory.

Proved by tests/unit/train/test_offload.py.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..core.disk import writing

_mappings: weakref.WeakValueDictionary[int, _Mapping] = weakref.WeakValueDictionary()


class _Mapping(mmap.mmap):
    """A mapping that can be found by the addresses of its tensors, and knows its own."""

    address = 0


def create(file: Path, patterns: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of zeros in a new file, shaped as the patterns are.

    Raises:
        UserError: the disk is full.
    """
    starts, end = [], 0
    for pattern in patterns:
        starts.append(end)
        end += -(-max(1, pattern.nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE  # pages belong to one tensor each
    with writing(file.parent, bytes_needed=end), file.open("w+b") as opened:
        if hasattr(os, "posix_fallocate"):  # a file with holes would kill the process on a full disk
            os.posix_fallocate(opened.fileno(), 0, end)
        else:  # macOS
            opened.truncate(end)
        mapping = _Mapping(opened.fileno(), end)
    tensors = []
    for pattern, start in zip(patterns, starts, strict=True):
        flat = torch.frombuffer(mapping, dtype=pattern.dtype, count=pattern.numel(), offset=start)
        tensors.append(flat.view(pattern.shape))
        _mappings[flat.data_ptr()] = mapping
        mapping.address = flat.data_ptr() - start
    return tensors


def forget(tensor: Tensor) -> None:
    """Takes the pages of a mapped tensor out of this process; nothing for any other tensor."""
    mapping = _mappings.get(tensor.data_ptr())
    if mapping is not None and tensor.nbytes:
        mapping.madvise(mmap.MADV_DONTNEED, tensor.data_ptr() - mapping.address, tensor.nbytes)
