"""Tensors whose numbers lie in files: mapped into memory, and let go of when they are not needed.

1. The mapping is shared: what is written reaches the file, and `forget` takes its pages out of this process without
   losing a number. Touching the tensor brings them back.
2. Pages that were forgotten may stay in the system's cache as long as nobody needs the memory.

Proved by tests/unit/train/test_offload.py.
"""

from __future__ import annotations

import mmap
import os
import weakref
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ..core.disk import writing

_mappings: weakref.WeakValueDictionary[int, _Mapping] = weakref.WeakValueDictionary()


class _Mapping(mmap.mmap):
    """A mapping that can be found by the address of its tensor."""


def create(file: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros in a new file.

    Raises:
        UserError: the disk is full.
    """
    size = prod(shape) * dtype.itemsize
    with writing(file.parent, bytes_needed=size), file.open("w+b") as opened:
        os.posix_fallocate(
            opened.fileno(), 0, size
        )  # a file with holes would kill the process on a full disk
        mapping = _Mapping(opened.fileno(), size)
    tensor = torch.frombuffer(mapping, dtype=dtype).view(shape)
    _mappings[tensor.data_ptr()] = mapping
    return tensor


def forget(tensor: Tensor) -> None:
    """Takes the pages of a mapped tensor out of this process; nothing for any other tensor."""
    mapping = _mappings.get(tensor.data_ptr())
    if mapping is not None:
        mapping.madvise(mmap.MADV_DONTNEED)
