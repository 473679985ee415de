"""Renders chest radiographs from one real CT, with findings whose label and place are known exactly.

`ct` reads the volume, `findings` adds findings to it, `render` projects and exposes it, `dicom` writes the result, and
`make_samples` makes lrclr's sample images.
"""
