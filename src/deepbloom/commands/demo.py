"""``deepbloom demo``: a page on this machine to try networks with images of one's own."""

from deepbloom.config.commands import DemoConfig
from deepbloom.demo.answers import load_networks
from deepbloom.demo.app import import_gradio, serve
from deepbloom.device import choose_device, use_cores


def run(config: DemoConfig) -> None:
    """Serve the page until Ctrl-C.

    Raises
    ------
    DeepBloomError
        Gradio is not installed, a checkpoint cannot be used, or the port is taken.
    Stopped
        By a signal: the way in which this command ends.
    """
    import_gradio()
    use_cores()
    networks = load_networks(config.checkpoints, choose_device(config.device))
    serve(networks, config.port, lambda address: print(f"open {address}   (Ctrl-C ends it)", flush=True))
