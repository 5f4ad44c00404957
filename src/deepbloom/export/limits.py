"""How large an exported file from anywhere may be."""

from pathlib import Path

from deepbloom.errors import CheckpointError

MAX_BYTES = 2_000_000_000
MAX_NODES = 50_000


def read_limited(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises
    ------
    CheckpointError
        It cannot be read, or has more than `MAX_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} has more than {MAX_BYTES:,} bytes: it is no image classifier.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error
