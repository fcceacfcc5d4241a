"""Predictions with a finished model: from stored images to files that lie on the images' own grids."""
