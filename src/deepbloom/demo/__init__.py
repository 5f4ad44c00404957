"""A local web page that classifies images and shows heatmaps."""
