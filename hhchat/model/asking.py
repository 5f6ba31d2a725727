"""Choosing what to ask: of several replies, the two whose comparison would teach most.

A pick teaches much where the gap between the replies is uncertain and the answer is not a matter of
course: p (1 - p) x variance, the gain in information on a Bradley-Terry taste (D-optimal design).
The taste is fitted on the features of a preference model (the prior's, where there is one), so it
works from the first pick, follows every pick at once, and needs no training in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from hhchat.model.preference import PreferenceModel, judged, reply_ids
from hhchat.model.taste import CONFIDENCE, Taste, fit_taste
from hhchat.similar import near_identical
from hhchat.types import Comparison, Generation, Message

REMEMBERED = 500  # picks, the latest: enough to know where the taste is still uncertain


class LocalAsker:
    """Remembers picks as differences of features. One thread at a time: the one that samples."""

    def __init__(self, judge: Callable[[], PreferenceModel | None]) -> None:
        """`judge` gives the preference model whose features are read, or None; asked once."""
        self.latest = ""  # the last comparison it has learnt from
        self._judge = judge
        self._pm: PreferenceModel | None = None
        self._differences: list[Tensor] = []
        self._targets: list[float] = []
        self._pending: list[Tensor] = []  # asked, not answered yet
        self._taste: Taste | None = None
        self._able: bool | None = None

    @property
    def able(self) -> bool:
        """Whether there is a preference model to read features from."""
        if self._able is None:
            self._pm = self._judge()
            self._able = self._pm is not None
        return self._able

    def learn(self, comparisons: Sequence[Comparison]) -> None:
        """Take in picks that came after `latest`, oldest first."""
        fresh = [c for c in comparisons if c.id > self.latest and c.preferred is not None]
        if not self.able or not fresh:
            return
        assert self._pm is not None
        model = self._pm.model
        rows = [
            judged(model, c.messages, [reply_ids(model, c.chosen), reply_ids(model, c.rejected)])
            for c in fresh
        ]
        for f, c in zip(self._pm.features(rows), fresh, strict=True):
            if bool(torch.isfinite(f).all()):
                self._differences.append(f[0].double() - f[1].double())
                self._targets.append(CONFIDENCE[c.strength])
        del self._differences[:-REMEMBERED], self._targets[:-REMEMBERED]
        self.latest = fresh[-1].id
        self._pending.clear()
        self._taste = None

    def choose(
        self, messages: Sequence[Message], replies: Sequence[Generation]
    ) -> tuple[int, int] | None:
        """The two replies to show; None when it cannot tell, or all of them are alike."""
        apart = [
            (i, j)
            for i, j in combinations(range(len(replies)), 2)
            if not near_identical(replies[i].text, replies[j].text)
        ]
        if not self.able or not apart:
            return None
        assert self._pm is not None
        row = judged(self._pm.model, messages, [reply_ids(self._pm.model, r) for r in replies])
        [features] = self._pm.features([row])
        if not bool(torch.isfinite(features).all()):
            return None
        differences = torch.stack([features[i] - features[j] for i, j in apart]).double()
        best = int(self._worth(differences).argmax())
        self._pending.append(differences[best])
        return apart[best]

    def _worth(self, differences: Tensor) -> Tensor:
        """What the answer to each pair would tell, given the picks and what is being asked."""
        if self._taste is None:
            if self._differences:
                self._taste = fit_taste(torch.stack(self._differences), torch.tensor(self._targets))
            else:
                self._taste = Taste.blank(differences.shape[1])
        taste = self._taste
        p = torch.sigmoid(differences @ taste.weights)
        variance = taste.covariance_of(differences, differences).diagonal()
        if self._pending:
            asked = torch.stack(self._pending)
            certain = torch.sigmoid(asked @ taste.weights)
            noise = torch.diag(1 / (certain * (1 - certain)).clamp_min(1e-6))
            cross = taste.covariance_of(differences, asked)
            known = torch.linalg.solve(taste.covariance_of(asked, asked) + noise, cross.T)
            variance = variance - (cross * known.T).sum(-1)
        return p * (1 - p) * variance
