"""From ``ckpt=`` to what gives predictions."""

from deepbloom.engine.predictor import Predictor


def open_predictor(ckpt: str, device: str = "auto", threads_of_run: bool = False) -> Predictor:
    """Return the predictor of a run directory or model file, on its device.

    Parameters
    ----------
    ckpt : str
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    threads_of_run : bool
        Take as many threads as the run took, where they are there: the last bits of scores depend on their number.

    Raises
    ------
    CheckpointError
        The file cannot be used.
    ConfigError
        The device is not available.
    """
    from deepbloom.device import available_cores, choose_device, use_cores
    from deepbloom.engine.checkpoint import read_model

    place = choose_device(device)
    use_cores()
    trained = read_model(ckpt)
    threads = trained.header.get("num_threads")
    if threads_of_run and type(threads) is int and threads > 0:
        use_cores(min(threads, available_cores()))
    trained.place(place)
    return trained
