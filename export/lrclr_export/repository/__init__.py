"""Bundles: Triton's configuration, golden data, the export of a checkpoint, and the engines of a bundle."""
