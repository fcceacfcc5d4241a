"""Applying a chain of transforms to a site's images, without training: files, and a page of before and after."""
