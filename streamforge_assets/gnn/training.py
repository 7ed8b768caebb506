"""Gradient training of one model on one panel: deterministic, resumable to the bit, ended by validation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resources.errors import Rejected
from streamforge_assets.gnn.batching import PanelTensors, draw_pieces, windows
from streamforge_assets.gnn.checkpoint import Checkpoints
from streamforge_assets.gnn.config import HORIZON, GnnConfig
from streamforge_assets.gnn.loss import information_coefficient, joint_loss, square_loss
from streamforge_assets.gnn.model import Forecaster

LEAST_TRAIN_BARS, LEAST_VALIDATION_BARS = 200, 50
PREDICT_ROWS = 1024


@dataclass(frozen=True)
class Split:
    """Forecast rows to train on and, after a purge and an embargo, to validate on."""

    train: range
    validation: range


@dataclass(frozen=True)
class Progress:
    """Where a training stands after a step. `validation` is the last epoch's loss; NaN before the first ends."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    validation: float


@dataclass
class History:
    """One entry per step: loss, learning_rate, gradient_norm. One per epoch: train, validation (loss), ic.

    `validation` and `ic` begin with the untrained model's.
    """

    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    ic: list[float] = field(default_factory=list)


def split_rows(bars: int, config: GnnConfig, lags: int) -> Split:
    """Cut the forecast rows of a panel of `bars` bars.

    A row has a full context before it and its target after it. No bar is looked at, or forecast, from both parts.

    Raises:
        Rejected: when either part would be too short.
    """
    context, gap = config.context(lags), config.purge(lags) + config.embargo
    end = bars - HORIZON
    validation = max(LEAST_VALIDATION_BARS, int(config.validation * (end - context)))
    train = range(context, end - validation - gap)
    least = max(LEAST_TRAIN_BARS, config.steps)
    if len(train) < least:
        needed = bars + least - len(train)
        raise Rejected(
            f"training needs {needed} bars at least; the panel has {bars}: take a longer window of days"
        )
    return Split(train, range(end - validation, end))


class Trainer:
    """Trains `model` in place.

    AdamW with a one-cycle schedule, clipped gradients, an exponential average of the weights, which is what is
    validated; after `patience` epochs without a better validation loss the best average is taken, which may be
    the untrained model. Batches are contiguous pieces (see `batching`).

    Args:
        model: on its device.
        data: the panel on the same device.
        split: its rows.
        precision: Omega of the residuals, (N, N).
        checkpoints: where the state is kept; None keeps none.
        every: steps between two checkpoints; None for one after each epoch.
    """

    def __init__(
        self,
        model: Forecaster,
        data: PanelTensors,
        split: Split,
        precision: Tensor,
        *,
        checkpoints: Checkpoints | None = None,
        every: int | None = None,
    ) -> None:
        config = model.config
        self.model, self.data, self.split, self.config = model, data, split, config
        self.precision, self.checkpoints, self.every = precision, checkpoints, every
        self.parameters: list[Tensor] = [item for item in model.parameters() if item.requires_grad]
        self.average = [item.detach().clone() for item in self.parameters]
        self.best = [item.clone() for item in self.average]
        self.best_loss, self.bad_epochs = float("inf"), 0
        self.generator = torch.Generator().manual_seed(config.seed)
        self.sampler = self.generator.get_state()
        self.epoch = self.cursor = 0
        self.history = History()
        self.batches = self._draw()
        self.steps = len(self.batches) * config.epochs
        self.optimizer = _optimizer(model, config)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rates, total_steps=self.steps + 1)

    def run(self, progress: Callable[[Progress], None] | None = None) -> History:
        """Train until done, from the last checkpoint if there is one; the model ends with the best weights.

        Raises:
            Rejected: when the checkpoint is damaged or of another training.
        """
        state = self.checkpoints.load() if self.checkpoints else None
        if state is not None:
            self._restore(state)
        else:
            self._judge()
        while self.epoch < self.config.epochs and self.bad_epochs < self.config.patience:
            self._epoch(progress)
        self._put(self.best)
        return self.history

    def _epoch(self, progress: Callable[[Progress], None] | None) -> None:
        self.model.train()
        while self.cursor < len(self.batches):
            self._step(self.batches[self.cursor])
            self.cursor += 1
            if progress:
                progress(self._progress())
            if self.every and self.cursor < len(self.batches) and len(self.history.loss) % self.every == 0:
                self._save()
        self.history.train.append(sum(self.history.loss[-len(self.batches) :]) / len(self.batches))
        self._judge()
        self.epoch, self.cursor = self.epoch + 1, 0
        self.batches = self._draw()
        self._save()

    def _step(self, starts: Tensor) -> None:
        loss = self._loss(starts)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.history.learning_rate.append(float(self.optimizer.param_groups[0]["lr"]))
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1.0 - self.config.ema)
        self.history.loss.append(float(loss.detach()))
        self.history.gradient_norm.append(float(norm))

    def _loss(self, starts: Tensor) -> Tensor:
        pieces = self.data.pieces(starts.to(self.precision.device), self.config.steps, self.model.context)
        features, returns, sigma, target, use = pieces
        predicted = self.model(features, returns, sigma)
        if self.config.loss == "gls":
            loss = joint_loss(predicted, target, use, self.precision, self.config.tail).mean()
        else:
            loss = square_loss(predicted, target, use).mean()
        if self.config.ic_weight and target.shape[-1] > 2:
            loss = loss - self.config.ic_weight * information_coefficient(predicted, target, use)
        return loss

    def _judge(self) -> None:
        """Validate the averaged weights, and keep them if they are the best so far."""
        mine = [item.detach().clone() for item in self.parameters]
        self._put(self.average)
        rows = self.split.validation
        predicted = predict_rows(self.model, self.data, rows)
        target, use = self.data.target[rows.start : rows.stop], self.data.use[rows.start : rows.stop]
        if self.config.loss == "gls":
            loss = float(joint_loss(predicted, target, use, self.precision, self.config.tail).mean())
        else:
            loss = float(square_loss(predicted, target, use).mean())
        self.history.validation.append(loss)
        self.history.ic.append(float(information_coefficient(predicted, target, use)))
        self._put(mine)
        if loss < self.best_loss:
            self.best_loss, self.bad_epochs = loss, 0
            self.best = [item.clone() for item in self.average]
        else:
            self.bad_epochs += 1

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _draw(self) -> list[Tensor]:
        self.sampler = self.generator.get_state()
        return draw_pieces(self.split.train, self.config.steps, self.config.segments, self.generator)

    def _progress(self) -> Progress:
        validation = self.history.validation[-1] if self.history.validation else float("nan")
        done = len(self.history.loss)
        return Progress(self.epoch, self.config.epochs, done, self.steps, self.history.loss[-1], validation)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        self.checkpoints.save(
            {
                "parameters": [item.detach().clone() for item in self.parameters],
                "average": self.average,
                "best": self.best,
                "best_loss": self.best_loss,
                "bad_epochs": self.bad_epochs,
                "optimizer": self.optimizer.state_dict(),
                "schedule": _plain(self.schedule.state_dict()),
                "sampler": self.sampler,
                "random": torch.get_rng_state(),
                "epoch": self.epoch,
                "cursor": self.cursor,
                "history": dict(vars(self.history)),
            }
        )

    def _restore(self, state: dict[str, Any]) -> None:
        device = self.precision.device
        self._put([item.to(device) for item in state["parameters"]])
        self.average = [item.to(device) for item in state["average"]]
        self.best = [item.to(device) for item in state["best"]]
        self.best_loss, self.bad_epochs = state["best_loss"], state["bad_epochs"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        self.generator.set_state(state["sampler"])
        self.batches = self._draw()
        self.epoch, self.cursor = state["epoch"], state["cursor"]
        self.history = History(**copy.deepcopy(state["history"]))


def predict_rows(model: Forecaster, data: PanelTensors, rows: range) -> Tensor:
    """Forecasts of `rows` in units of sigma, shape (rows, N); each row needs `model.context` rows before it."""
    model.eval()
    parts = []
    with torch.no_grad():
        for first, last in windows(rows.start, rows.stop, PREDICT_ROWS):
            view = slice(first - model.context, last)
            parts.append(model(*(item[view][None] for item in (data.features, data.returns, data.sigma)))[0])
    return torch.cat(parts)


def check_device(device: str) -> str:
    """The device's name, once it is known to be there.

    Raises:
        Rejected: when CUDA is asked for and absent.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Rejected(f"{device} was asked for, but this machine has no usable CUDA GPU; set the device to cpu")
    return device


def _optimizer(model: Forecaster, config: GnnConfig) -> torch.optim.AdamW:
    slow = model.edge_parameters()
    chosen = {id(item) for item in slow}
    quick = [item for item in model.parameters() if item.requires_grad and id(item) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": quick, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": slow, "lr": config.learning_rate * config.edge_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Without the schedule's function objects, which are the same in every run."""
    return {name: value for name, value in state.items() if isinstance(value, (int, float, str, list))}
