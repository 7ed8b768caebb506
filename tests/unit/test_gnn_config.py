import subprocess
import sys

import pytest

from resources.errors import Rejected
from streamforge_assets.gnn.config import GnnConfig


def test_a_config_survives_json():
    config = GnnConfig(encoder="tcn", epochs=3, learning_rate=1e-3, seed=5)
    assert GnnConfig.from_json(config.to_json()) == config
    assert GnnConfig.from_json(config.to_json()).digest == config.digest != GnnConfig().digest


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": "lstm"}, "model is 'lstm'; it may be signed_gated, gatv2"),
        ({"hidden": 0}, "hidden is 0; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"embargo": -1}, "embargo is -1"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"validation": 0.95}, "validation is 0.95"),
    ],
)
def test_what_cannot_be_trained_is_refused(values, sentence):
    with pytest.raises(Rejected, match=sentence):
        GnnConfig(**values)


@pytest.mark.parametrize("text", ["{", "[]", '{"width": 3}'])
def test_json_that_is_no_config_is_refused(text):
    with pytest.raises(Rejected, match="the model's config"):
        GnnConfig.from_json(text)


def test_importing_the_config_imports_no_torch():
    code = (
        "import sys, streamforge_assets, streamforge_assets.gnn.config, streamforge_assets.gnn.baselines;"
        "sys.exit('torch' in sys.modules or 'lightgbm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_with_the_product_imports_no_torch_geometric():
    code = "import sys, streamforge_assets.gnn.train; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
