"""A trained model: what it forecasts, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from resources.errors import Rejected
from streamforge_assets.gnn.batching import PanelTensors
from streamforge_assets.gnn.config import GnnConfig
from streamforge_assets.gnn.model import Forecaster
from streamforge_assets.gnn.registry import build_model
from streamforge_assets.gnn.training import History, check_device, predict_rows
from streamforge_assets.graphs.graph import AssetGraph
from streamforge_assets.market.panel import Floats, Panel

CONFIG, HISTORY, GRAPH = "config.json", "history.json", "graph.npz"
WEIGHTS, PROGRAM = "model.safetensors", "model.pt2"
_ARRAYS = ("leader", "follower", "lag", "weight", "t", "p", "q", "own", "contemporaneous", "partial_correlation")


@dataclass(frozen=True)
class TrainedModel:
    """A model with everything that a forecast needs.

    Args:
        config: how it was trained.
        graph: its edges, with the weights that they had before training.
        names: names of the features that it reads, in order.
        module: the network, in evaluation mode; forecasts in units of sigma.
        gated: whether the gate is used; validation may have decided against it.
        history: of the training.
        note: what a user should know, such as that the graph is empty; "" for nothing.
        facts: numbers and choices of the training, for its report.
    """

    config: GnnConfig
    graph: AssetGraph
    names: tuple[str, ...]
    module: Forecaster
    gated: bool
    history: History
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that it forecasts."""
        return self.graph.symbols

    @property
    def context(self) -> int:
        """Bars before a bar that its forecast depends on."""
        return self.module.context

    def predict(self, panel: Panel, *, device: str = "cpu") -> Floats:
        """Forecasts of raw log returns, shape (T, N): row t is known at the end of bar t and speaks of bar t + 1.

        The first `context` rows are 0: what they would depend on is not in the panel. The columns are the
        panel's, in whatever order it has the model's symbols.

        Raises:
            Rejected: for a panel of other symbols or features, or with no row that has its context.
        """
        self._check(panel)
        own = panel.choose(self.symbols)
        check_device(device)
        module = self.module.to(device)
        data = PanelTensors.of(own, device=device)
        predicted = predict_rows(module, data, range(self.context, panel.bars)).cpu().numpy().astype(np.float64)
        out = np.zeros_like(own.returns)
        out[self.context :] = predicted * own.sigma[self.context :]
        back = [self.symbols.index(symbol) for symbol in panel.symbols]
        return out[:, back]

    def gate(self, panel: Panel) -> Floats | None:
        """How open each asset is as a leader, 0 to 2, shape (T, N), 1 without its context; None without a gate."""
        self._check(panel)
        return gate_values(self.module, panel.choose(self.symbols))

    def _check(self, panel: Panel) -> None:
        absent = [symbol for symbol in self.symbols if symbol not in panel.symbols]
        extra = [symbol for symbol in panel.symbols if symbol not in self.symbols]
        if absent or extra:
            parts = [f"the panel lacks {', '.join(absent)}"] if absent else []
            parts += [f"the model does not know {', '.join(extra)}"] if extra else []
            raise Rejected(f"the model is of other symbols than the panel: {' and '.join(parts)}")
        if panel.names != self.names:
            raise Rejected(
                f"the model reads the features {', '.join(self.names)}; the panel has {', '.join(panel.names)}"
            )
        if panel.bars <= self.context:
            raise Rejected(
                f"a forecast needs at least {self.context + 1} bars; the panel has {panel.bars}: take more bars"
            )


def gate_values(module: Forecaster, panel: Panel) -> Floats | None:
    """Gates of every bar and asset (T, N), 1 where a bar lacks its context; None for a model without."""
    gates = getattr(module, "gates", None)
    if gates is None or getattr(module, "gate", None) is None:
        return None
    out = np.ones(panel.returns.shape)
    device = next(module.parameters()).device
    step = 4096
    with torch.no_grad():
        for begin in range(module.reach - 1, panel.bars, step):
            view = panel.features[begin - module.reach + 1 : begin + step]
            found = gates(torch.tensor(view, device=device)[None])[0]
            out[begin : begin + step] = found.cpu().numpy()
    return out


def save_model(model: TrainedModel, folder: Path, *, program: bool = True) -> None:
    """Write the model's files into `folder`: config, graph, weights, history and, if asked, the exported program.

    Nothing is hashed here and files are written one by one: whoever publishes the folder does both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = dict(model.facts)
    about = {
        "config": asdict(model.config),
        "names": list(model.names),
        "gated": model.gated,
        "note": model.note,
        "facts": facts,
    }
    (folder / CONFIG).write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")
    (folder / HISTORY).write_text(json.dumps(vars(model.history)), encoding="utf-8")
    state = {name: value.detach().cpu().contiguous() for name, value in model.module.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    arrays: dict[str, Any] = {name: np.asarray(getattr(model.graph, name)) for name in _ARRAYS}
    text = {"symbols": list(model.graph.symbols), "parameters": dict(model.graph.parameters)}
    text["data_hash"] = [model.graph.data_hash]
    with (folder / GRAPH).open("wb") as file:
        np.savez(file, about=np.array(json.dumps(text, default=str)), **arrays)
    if program:
        from streamforge_assets.gnn.export import export_program

        export_program(model.module, len(model.symbols), len(model.names), folder / PROGRAM)


def load_model(folder: Path) -> TrainedModel:
    """The model that `save_model` wrote; needs no torch.export.

    Raises:
        Rejected: when a file is missing or damaged.
    """
    absent = [name for name in (CONFIG, HISTORY, GRAPH, WEIGHTS) if not (folder / name).is_file()]
    if absent:
        raise Rejected(f"the model in {folder} is not complete: {', '.join(absent)} missing")
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        history = History(**json.loads((folder / HISTORY).read_text(encoding="utf-8")))
        graph = _load_graph(folder / GRAPH)
        state = load_file(folder / WEIGHTS)
        config = GnnConfig.from_json(json.dumps(about["config"]))
        names = tuple(about["names"])
        unit = np.ones(len(graph.symbols))
        module = build_model(replace(config, gate=about["gated"]), graph, unit, len(names))
        module.load_state_dict(state)
    except Rejected:
        raise
    except Exception as error:
        raise Rejected(f"the model in {folder} cannot be read ({error}); train it again") from error
    module.eval()
    return TrainedModel(config, graph, names, module, about["gated"], history, about["note"], about["facts"])


def _load_graph(path: Path) -> AssetGraph:
    with np.load(path, allow_pickle=False) as file:
        text = json.loads(str(file["about"]))
        arrays = {name: file[name] for name in _ARRAYS}
    return AssetGraph(
        symbols=tuple(text["symbols"]), parameters=text["parameters"], data_hash=text["data_hash"][0], **arrays
    )
