"""One forward of the transformer, by whichever levers are pulled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darkroom.models.folding import Folding, InModule, in_place, source_of
from darkroom.models.lean import Grids, Lean, differs_from_upstream, obstacle
from darkroom.models.levers import Levers

log = logging.getLogger(__name__)


class Forward:
    """Velocities from tokens, text and a timestep.

    cache_dir keeps modulation tables and compiled code; made_ahead is another such folder, whose tables are read.
    """

    def __init__(
        self, transformer: Any, levers: Levers, cache_dir: Path | None = None, made_ahead: Path | None = None
    ) -> None:
        self.transformer, weights = transformer, source_of(transformer)
        # Weights that are not in the module can only be had as a table.
        folds = levers.fold or not isinstance(weights, InModule)
        tables, code = (None, None) if cache_dir is None else (cache_dir / "modulation", cache_dir / "compiled")
        ahead = None if made_ahead is None else made_ahead / "modulation"
        self.folding = Folding(transformer, weights, tables, ahead) if folds else None
        # The lean forward takes rows also where no schedule is folded: each is computed once, for both sides of CFG.
        self._rows = self.folding or Folding(transformer, weights)
        self.changed = differs_from_upstream(bool(transformer.config.zero_cond_t)) if levers.lean else None
        if self.changed is not None:
            log.warning("the lean forward does not fit the installed diffusers and is not used: %s", self.changed)
        self._lean = Lean(transformer, levers.compile, code) if levers.lean and self.changed is None else None

    @property
    def problem(self) -> str | None:
        """What `health` should say of a lever that is pulled and does not work; None where all do."""
        if self.changed is not None:
            return f"diffusers' own forward runs, since the lean one does not fit it: {self.changed}"
        if self._lean is None:
            return None
        hindered = obstacle(self.transformer)
        return self._lean.problem if hindered is None else f"diffusers' own forward runs, since {hindered}"

    def announce(self, timesteps: Sequence[float]) -> None:
        """The timesteps of the next job, 0…1 and rounded to the model's dtype: their modulation is made in one go."""
        if self.folding is not None:
            self.folding.announce(timesteps)
        if self._followers is not None:
            self._followers.announce(timesteps)

    def __call__(self, tokens: Tensor, cells: int, text: Tensor, timestep: Tensor, grids: Grids) -> Tensor:
        """[B, cells, 64] for tokens [B, N, 64], of which the first `cells` are noisy, and text [B, L, D].

        timestep: [], 0…1, rounded to the model's dtype; on the CPU, as reading it back from a device would wait for
        all that runs there. grids: (height, width) in tokens, the noisy picture's first.
        """
        if self._followers is None:
            return self._alone(tokens, cells, text, timestep, grids)
        with self._followers.step(tokens, cells, text, timestep, grids):
            return self._alone(tokens, cells, text, timestep, grids)

    @property
    def _followers(self) -> Any:
        """The processes that run the forwards, too, where there are several GPUs (`crew`)."""
        return getattr(self.transformer, "followers", None)

    def _alone(self, tokens: Tensor, cells: int, text: Tensor, timestep: Tensor, grids: Grids) -> Tensor:
        if self._lean is not None and obstacle(self.transformer) is None:
            return self._lean(tokens, cells, text, self._rows.at(float(timestep), timestep.dtype), grids)
        if self.folding is None:
            return self._upstream(tokens, cells, text, timestep, grids)
        with in_place(self.transformer, self.folding.at(float(timestep), timestep.dtype)):
            return self._upstream(tokens, cells, text, timestep, grids)

    def _upstream(self, tokens: Tensor, cells: int, text: Tensor, timestep: Tensor, grids: Grids) -> Tensor:
        velocity = self.transformer(
            hidden_states=tokens,
            timestep=timestep.to(tokens.device).expand(len(tokens)),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, *grid) for grid in grids]] * len(tokens),
            return_dict=False,
        )[0]
        return torch.as_tensor(velocity[:, :cells])
