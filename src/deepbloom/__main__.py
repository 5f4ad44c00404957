"""``python -m deepbloom``: the same as the ``deepbloom`` command."""

from deepbloom.cli.main import main

if __name__ == "__main__":
    main()
