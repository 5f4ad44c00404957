"""``deepbloom demo``: a local web page that classifies images and shows heatmaps."""

from deepbloom.config.command_settings import DemoConfig
from deepbloom.errors import ConfigError


def run(config: DemoConfig) -> None:
    """Serve the page until Ctrl-C.

    Raises
    ------
    DeepBloomError
        The extra ``demo`` is not installed, a checkpoint cannot be used, or the port is taken.
    Stopped
        On SIGINT or SIGTERM, which is how this command ends.
    """
    try:
        from deepbloom.demo.app import serve
        from deepbloom.demo.predictions import load_networks
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"deepbloom demo needs the extra 'demo' ({error.name} is missing): pip install 'deepbloom[demo]'."
        ) from error
    networks = load_networks(config.checkpoints, config.device)
    serve(networks, config.port, lambda url: print(f"open {url}   (Ctrl-C stops it)", flush=True))
