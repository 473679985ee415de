"""Bundles: Triton's configuration, golden data, the export of a checkpoint, and engines of a bundle that exists."""
