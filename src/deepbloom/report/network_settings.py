"""The networks of a group, the settings that they share, and those in which they differ."""

from deepbloom.report.formatting import shorten
from deepbloom.report.groups import Group
from deepbloom.report.pages import PageTable, Section

MAX_DIFFERENCES = 12
"""Settings that are shown; report.csv has all."""
OF_THE_NETWORK = ("model.", "preprocessing")
"""Beginnings of settings that belong to the network itself."""


def describe_settings(group: Group, shown: int) -> Section:
    """Return the section of networks and settings; tables show ``shown`` rows at once."""
    differing, shared = tabulate_settings(group)
    caption = "A row's rank may come from these settings and not from its network."
    tables = [
        PageTable(
            ("Model", *(shorten(key, 60) for key in differing)),
            [
                (model.short, *(shorten(model.runs[0].model_identity.get(key) or "–") for key in differing))
                for model in group.models
            ],
            caption,
            words=frozenset(range(len(differing) + 1)),
            shown=shown,
        )
    ] * bool(differing)
    if shared:
        title = f"{len(shared)} settings that all models share"
        rows = [(shorten(key, 60), shorten(value, 80)) for key, value in shared.items()]
        tables.append(PageTable(("Setting", "Value"), rows, words=frozenset({1}), title=title, is_open=False))
    return Section("Networks and settings", tables=tables, meanings=list_descriptions(group))


def tabulate_settings(group: Group) -> tuple[list[str], dict[str, str]]:
    """Return the settings in which the models of a group differ, the first `MAX_DIFFERENCES`, and those that all share.

    Those of the network itself are left out.
    """
    known = [model.runs[0].model_identity for model in group.models]
    keys = [key for key in dict.fromkeys(key for one in known for key in one) if not key.startswith(OF_THE_NETWORK)]
    differing = [key for key in keys if len({one.get(key) for one in known}) > 1]
    return differing[:MAX_DIFFERENCES], {key: known[0][key] for key in keys if key not in differing}


def list_descriptions(group: Group) -> list[tuple[str, str]]:
    """Return the networks of a group and what they are, each once."""
    known = {run.metrics.model: run.values.get("description") for run in group.runs}
    return [(shorten(name), shorten(text, 160)) for name, text in known.items() if text]
