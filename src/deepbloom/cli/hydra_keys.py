"""The keys of Hydra itself that a sweep reads."""

from hydra.core.override_parser.types import Override

from deepbloom.errors import ConfigError, unknown

GROUPS = ("hydra/sweeper", "hydra/launcher")
SETTINGS = ("hydra.sweeper.", "hydra.launcher.")
TARGETS = ("hydra.sweeper._target_", "hydra.launcher._target_")
FOLDERS = ("hydra.sweep.dir", "hydra.sweep.subdir", "hydra.run.dir")
"""Where Hydra's own applications write."""
SWEEPERS = ("grid", "optuna")


def is_hydra_key(key: str) -> bool:
    """Return whether a key or group is one of Hydra itself."""
    return key.startswith(("hydra.", "hydra/"))


def check_hydra_key(override: Override) -> None:
    """Raise `ConfigError` if a sweep does not read this key of Hydra."""
    key = override.key_or_group
    if key == "hydra/sweeper" and override.value() == "basic":  # Hydra's own, which runs no jobs of DeepBloom
        raise ConfigError(unknown(key, "basic", SWEEPERS))
    if key in GROUPS or (key.startswith(SETTINGS) and key not in TARGETS):
        return
    if key in FOLDERS:
        advice = "For the folder of each run give output_dir='FOLDER/${model.name}-${seed}'."
    else:
        advice = (
            "A sweep reads only hydra/sweeper, hydra/launcher, hydra.sweeper.KEY and hydra.launcher.KEY of Hydra's."
        )
    raise ConfigError(f"Nothing reads {key}. {advice}")


def unread(key: str) -> str:
    """Return what to say of a key that the chosen sweeper or launcher does not have."""
    if key.startswith("hydra.sweeper."):
        return f"Nothing reads {key}: the chosen sweeper has no such setting. For a search add hydra/sweeper=optuna."
    return f"Nothing reads {key}: the chosen launcher has no such setting. Choose another with hydra/launcher=NAME."
