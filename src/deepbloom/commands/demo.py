"""``deepbloom demo``: a local web page that classifies images and shows heatmaps."""

from deepbloom.config.command_settings import LOOPBACK, DemoConfig
from deepbloom.errors import ConfigError


def run(config: DemoConfig) -> None:
    """Serve the page until Ctrl-C.

    Raises
    ------
    DeepBloomError
        The extra ``demo`` is not installed, a checkpoint cannot be used, or the port or address cannot be used.
    Stopped
        On SIGINT or SIGTERM, which is how this command ends.
    """
    try:
        from deepbloom.demo.predictions import load_networks
        from deepbloom.demo.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"deepbloom demo needs the extra 'demo' ({error.name} is missing): pip install 'deepbloom[demo]'."
        ) from error
    networks = load_networks(config.checkpoints, config.device)
    serve(networks, config.host, config.port, lambda url: _announce(config.host, url))


def _announce(host: str, url: str) -> None:
    if host != LOOPBACK:
        print(
            "Whoever has this address can classify images on this machine and sees the networks' classes and training "
            "images. The connection is not encrypted, so use it only in a network that you trust."
        )
    print(f"open {url}   (Ctrl-C stops it)", flush=True)
