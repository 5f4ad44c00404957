"""Of Hydra's own keys, a sweep takes only those that it reads."""

from collections.abc import Callable

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from deepbloom.cli.hydra_keys import check_hydra_key
from deepbloom.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]
FOLDER = "For the folder of each run give output_dir='FOLDER/${model.name}-${seed}'."


@pytest.mark.parametrize(
    ("argument", "messages"),
    [
        ("hydra.sweep.dir=elsewhere", ["Nothing reads hydra.sweep.dir.", FOLDER]),
        ("hydra.sweep.subdir=x", ["Nothing reads hydra.sweep.subdir.", FOLDER]),
        ("hydra.run.dir=x", ["Nothing reads hydra.run.dir.", FOLDER]),
        ("hydra.verbose=true", ["Nothing reads hydra.verbose.", "hydra.launcher.KEY"]),
        ("hydra.sweper.n_trials=3", ["Nothing reads hydra.sweper.n_trials.", "hydra.sweeper.KEY"]),
        ("hydra/job_logging=default", ["Nothing reads hydra/job_logging."]),
        ("hydra.launcher=null", ["Nothing reads hydra.launcher."]),
        ("hydra.sweeper._target_=os.getcwd", ["Nothing reads hydra.sweeper._target_."]),
        ("hydra/sweeper=basic", ["Unknown hydra/sweeper 'basic'", "grid, optuna"]),
    ],
)
def test_a_key_of_hydra_that_no_sweep_reads_is_refused(argument: str, messages: list[str], deepbloom: Run) -> None:
    code, _, err = deepbloom("train", "-m", "seed=0,1", argument)
    assert code == 2, err
    assert [message in err for message in messages] == [True] * len(messages), err
    assert FOLDER in messages or FOLDER not in err


@pytest.mark.parametrize(
    "argument",
    [
        "hydra/launcher=ray",
        "hydra/sweeper=optuna",
        "hydra.launcher.timeout_min=600",
        "hydra.launcher.ray.init.address=auto",
        "+hydra.launcher.ray.init.object_store_memory=null",
        "hydra.sweeper.storage=sqlite:///x.db",
    ],
)
def test_what_the_documentation_of_sweeps_names_is_taken(argument: str) -> None:
    check_hydra_key(OverridesParser.create().parse_override(argument))
    with pytest.raises(ConfigError):
        check_hydra_key(OverridesParser.create().parse_override("hydra.job.name=x"))
