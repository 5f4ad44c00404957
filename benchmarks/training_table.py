"""Table (Markdown, to standard output) and plot of what `training_speed.py` measured.

    python benchmarks/training_table.py training_speed.json --plot training_speed.png

Several files are joined: each model is taken from the file that has it.
"""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WAYS = {"plain": "plain loop", "lightning": "Lightning", "timm": "timm"}
COLORS = {"plain": "#3b5b92", "lightning": "#c8772e", "timm": "#5d8f4e"}


def ratios(result: dict, way: str) -> list[float]:
    """Return how many times longer the alternative takes, for every time that it was measured."""
    return [seconds / turn["deepbloom"]["seconds"] for turn in result["turns"] for seconds in turn.get(way, [])]


def middle(result: dict, part: str, name: str) -> float:
    return statistics.median(turn[part][name] for turn in result["turns"])


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{statistics.median(values):.1f}x" + (f" ({low:.1f}-{high:.1f})" if len(values) > 1 else "")


def row(result: dict) -> str:
    own = result["turns"][0]["deepbloom"]
    rate, limit = (
        middle(result, "deepbloom", "images_per_second"),
        middle(result, "limit", "in_memory_images_per_second"),
    )
    peak = middle(result, "limit", "flops") / middle(result, "limit", "matrix_product_flops")
    copies = [f"copies: {own['copies']}"] if own["copies"] else []
    cells = [
        f"`{result['model']}`",
        f"{own['training_images']:,}",
        f"{middle(result, 'deepbloom', 'seconds'):.0f} s",
        *(spread(ratios(result, way)) for way in WAYS),
        ", ".join([f"{own['epochs']} epochs", own["precision"], *copies, "-".join(map(str, own["sides"])) + " pixels"]),
        f"{rate:,.0f}",
        f"{rate / limit:.2f}",
        f"{peak:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def plot(results: list[dict], path: Path) -> None:
    """Draw a bar per model and alternative, with its range over the turns."""
    figure, axes = plt.subplots(figsize=(8, 0.75 * len(results) + 1.4), layout="constrained")
    for place, (way, label) in enumerate(WAYS.items()):
        for line, result in enumerate(results):
            values = ratios(result, way)
            if not values:
                continue
            y, width = line + 0.25 * (place - 1), statistics.median(values)
            error = [[width - min(values)], [max(values) - width]]
            bar = {"color": COLORS[way], "label": label if line == 0 else None, "ecolor": "#444444", "capsize": 2}
            axes.barh(y, width, 0.23, xerr=error, **bar)
            axes.annotate(f"{width:.1f}x", (max(values), y), (4, 0), textcoords="offset points", va="center", size=8)
    axes.set_yticks(range(len(results)), [result["model"] for result in results])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes.axvline(1, color="#444444", linewidth=1)
    axes.set_xlabel("times as long as DeepBloom, whole run from cold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    contents = [json.loads(path.read_text()) for path in args.files]
    results = [result for content in contents for result in content["results"]]
    print("| model | training images | DeepBloom, whole run |", " | ".join(WAYS.values()), end=" ")
    print("| DeepBloom chose | images/s in the last epochs | of tensors in memory | of the matrix product |")
    print("|---" * 10 + "|")
    print("\n".join(row(result) for result in results))
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
