"""Documents of packed rows as rows of their own, so that a recurrent network reads each from its first position.

    documents = Documents(segments_BT, names(segments_BT))
    x_NTD = documents.take(x_BTD);   y_BTD = documents.put(y_NTD)

1. A document is named by its row and its segment number; the target and the source of a pair have the same name.
2. Each document begins at position 0 and is padded at its end, whatever the layout it comes from. What a causal
   network computes in that padding cannot reach a real position and is thrown away by `put`.
3. A recurrent network then takes as many steps as the longest document has tokens, instead of the longest row.
4. Rows that hold one document from their beginning are left as they are: nothing is copied.

Legend: B rows, T positions of a row and of a document, N documents, P real positions, D width.
Proved by tests/unit/layers/test_documents.py and tests/contract/test_models.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROW = 1 << 32  # segment numbers of a row are smaller


def names(segments_BT: Tensor) -> Tensor:
    """The name of every document that occurs, sorted, int64 [N]."""
    return torch.unique(_named(segments_BT)[segments_BT != 0])


def _named(segments_BT: Tensor) -> Tensor:
    rows_B1 = torch.arange(len(segments_BT), device=segments_BT.device)[:, None]
    return rows_B1 * ROW + segments_BT


class Documents:
    """Where each named document stands in rows; one that does not occur there is empty.

    Attributes:
        lengths_N: tokens of each document.
        real_NT: False in the padding at the end of a document.
    """

    def __init__(self, segments_BT: Tensor, names_N: Tensor) -> None:
        self.shape = segments_BT.shape
        self.places_P: Tensor | None = None
        if _one_a_row(segments_BT, names_N):
            self.lengths_N = (segments_BT != 0).sum(dim=1)
            width = segments_BT.shape[1]
        else:
            named = _named(segments_BT).flatten()
            self.places_P = (torch.isin(named, names_N) & (segments_BT.flatten() != 0)).nonzero()[:, 0]
            document_P = torch.searchsorted(names_N, named[self.places_P])
            document_P, order_P = document_P.sort(stable=True)
            self.places_P = self.places_P[order_P]
            self.lengths_N = torch.bincount(document_P, minlength=len(names_N))
            width = max(1, int(self.lengths_N.max())) if len(names_N) else 1
        index_T = torch.arange(width, device=segments_BT.device)
        self.real_NT = index_T < self.lengths_N[:, None]

    def take(self, x_BTD: Tensor) -> Tensor:
        """The documents' vectors, [N, T, D]; zeros in their padding."""
        if self.places_P is None:
            return x_BTD
        x_PD = x_BTD.flatten(0, 1).index_select(0, self.places_P)
        return _spread(x_PD, self.real_NT.flatten().nonzero()[:, 0], self.real_NT.shape)

    def put(self, y_NTD: Tensor) -> Tensor:
        """The documents' vectors back in their rows, [B, T, D]; zeros where no document is."""
        if self.places_P is None:
            return y_NTD
        real_P = self.real_NT.flatten().nonzero()[:, 0]
        return _spread(y_NTD.flatten(0, 1).index_select(0, real_P), self.places_P, self.shape)

    def reversed(self, x_NTD: Tensor) -> Tensor:
        """Each document from its last token to its first; its padding stays where it is."""
        index_T = torch.arange(x_NTD.shape[1], device=x_NTD.device)
        from_NT = torch.where(self.real_NT, self.lengths_N[:, None] - 1 - index_T, index_T)
        from_NT = from_NT + torch.arange(len(x_NTD), device=x_NTD.device)[:, None] * x_NTD.shape[1]
        return x_NTD.flatten(0, 1).index_select(0, from_NT.flatten()).view_as(x_NTD)

    def last(self, x_NTD: Tensor, before_ND: Tensor) -> Tensor:
        """The vector at each document's last token, or `before_ND` where the document is empty; [N, D]."""
        rows_N = torch.arange(len(x_NTD), device=x_NTD.device)
        last_ND = x_NTD[rows_N, (self.lengths_N - 1).clamp(min=0)]
        return torch.where(self.lengths_N[:, None] > 0, last_ND, before_ND)


def _spread(x_PD: Tensor, places_P: Tensor, shape: torch.Size) -> Tensor:
    """Vectors put at their places among zeros, [*shape, D]."""
    empty = x_PD.new_zeros(shape[0] * shape[1], x_PD.shape[-1])
    return empty.index_copy(0, places_P, x_PD).unflatten(0, shape)


def _one_a_row(segments_BT: Tensor, names_N: Tensor) -> bool:
    """Whether the documents are the rows themselves, in order and padded at their end."""
    if len(names_N) != len(segments_BT) or not bool((segments_BT <= 1).all()):
        return False
    rows_B1 = torch.ones_like(segments_BT[:, :1])
    return bool((names_N == _named(rows_B1)[:, 0]).all()) and bool(
        (segments_BT[:, 1:] <= segments_BT[:, :-1]).all()
    )
