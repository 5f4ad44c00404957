"""Drawn flowers. Importing this package registers the source."""

from deepbloom.data.sources.synthetic import source as source
