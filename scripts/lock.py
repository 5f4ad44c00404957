"""Print the exact versions that ``pip install '.[dev]'`` takes today, one a line; nothing is installed."""

import json
import subprocess
import sys

NOTE = "# Made by `make lock` on Linux; check it with: pip-audit --strict --no-deps -r requirements-dev.lock"


def main() -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    done = subprocess.run([*command, "--report", "-", ".[dev]"], stdout=subprocess.PIPE, text=True, check=True)
    found = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    rows = sorted(
        {f"{data['name']}=={data['version']}" for data in found if data["name"] != "deepbloom"}, key=str.lower
    )
    print("\n".join([NOTE, *rows]))


if __name__ == "__main__":
    main()
