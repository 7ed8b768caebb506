"""Everything that defines a model and its training, in one value that goes to JSON and back. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from resources.errors import Rejected

ModelName = Literal["signed_gated", "gatv2", "gine", "gcn", "transformer", "no_graph"]
EncoderName = Literal["mlp", "tcn", "gru"]
LossName = Literal["gls", "mse"]

HORIZON = 1
"""Bars ahead that a forecast speaks of."""

TCN_KERNEL, TCN_DILATIONS = 3, (1, 2, 4)


@dataclass(frozen=True)
class GnnConfig:
    """A model and how it is trained. Equal values train equal models on equal data.

    Args:
        model: name in the registry; `signed_gated` is the product, the others are ablations.
        encoder: what reads a node's last bars; `tcn` has a fixed receptive field of 15 bars.
        hidden: width H of encoder and convolutions.
        lookback: bars L that `mlp` and `gru` read, the current one included.
        gate: whether an edge's weight is multiplied by a learned function of its leader's state.
        loss: `gls` weighs residuals by the precision of their joint distribution, `mse` all alike.
        ic_weight: weight of minus the information coefficient in the loss.
        tail: degrees of freedom of the Student-t that `gls` takes the residuals for.
        shrinkage: whether weights are drawn towards zero by empirical Bayes.
        complete: whether training may add edges that the graph lacks (see `selection`); off in graph ablations.
        epochs: at most; a pass over the training rows each.
        patience: epochs without a better validation loss after which training ends.
        learning_rate: peak of the one-cycle schedule.
        edge_rate: learning rate of edge weights as a share of it.
        weight_decay: of AdamW, edge weights excepted.
        segments: contiguous pieces of a batch.
        steps: bars of a piece: segments × steps windows make a batch.
        ema: decay per step of the averaged weights that are validated and kept.
        clip: largest norm of the gradient.
        validation: last share of the rows, kept for early stopping and for the decision about the gate.
        embargo: bars left out between training and validation rows beyond lookback and horizon.
        seed: of initial weights and batch order.
    """

    model: ModelName = "signed_gated"
    encoder: EncoderName = "mlp"
    hidden: int = 32
    lookback: int = 4
    gate: bool = True
    loss: LossName = "gls"
    ic_weight: float = 0.3
    tail: float = 5.0
    shrinkage: bool = True
    complete: bool = True
    epochs: int = 12
    patience: int = 4
    learning_rate: float = 1e-2
    edge_rate: float = 0.3
    weight_decay: float = 1e-4
    segments: int = 4
    steps: int = 64
    ema: float = 0.98
    clip: float = 1.0
    validation: float = 0.15
    embargo: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            Rejected: naming the field, its value and what it may be.
        """
        for name, choices in (("model", ModelName), ("encoder", EncoderName), ("loss", LossName)):
            if getattr(self, name) not in get_args(choices):
                raise Rejected(f"{name} is {getattr(self, name)!r}; it may be {', '.join(get_args(choices))}")
        for name in ("hidden", "lookback", "epochs", "patience", "segments", "steps"):
            if getattr(self, name) < 1:
                raise Rejected(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "tail", "clip"):
            if not getattr(self, name) > 0:
                raise Rejected(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("ic_weight", "edge_rate", "weight_decay", "embargo", "seed"):
            if getattr(self, name) < 0:
                raise Rejected(f"{name} is {getattr(self, name)}; it must not be below 0")
        if not 0 <= self.ema < 1:
            raise Rejected(f"ema is {self.ema}; it must be at least 0 and below 1")
        if not 0 < self.validation < 0.9:
            raise Rejected(f"validation is {self.validation}; it is a share of the rows, above 0 and below 0.9")

    @property
    def reach(self) -> int:
        """Bars that the encoder looks at, the current one included."""
        if self.encoder == "tcn":
            return 1 + (TCN_KERNEL - 1) * sum(TCN_DILATIONS)
        return self.lookback

    def context(self, lags: int) -> int:
        """Bars before the current one that a forecast depends on, for a graph with `lags` lags."""
        return self.reach - 1 + max(lags, 1) - 1

    def purge(self, lags: int) -> int:
        """Bars between training and validation (or test) rows: lookback and horizon, so that none is shared."""
        return self.context(lags) + 1 + HORIZON

    def to_json(self) -> str:
        """One JSON object, keys sorted."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> GnnConfig:
        """The config that `to_json` wrote.

        Raises:
            Rejected: for text that is no such object, or a field that no config has.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise Rejected(f"the model's config is not JSON: {error}") from error
        if not isinstance(values, Mapping):
            raise Rejected("the model's config must be a JSON object")
        known = {item.name for item in fields(cls)}
        odd = sorted(set(values) - known)
        if odd:
            raise Rejected(f"the model's config names {', '.join(odd)}, which this version does not know")
        return cls(**values)

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
