"""Drawn flowers, a source of images."""

from deepbloom.data.sources.synthetic.source import load as load
