"""Chest radiographs rendered from one real CT, with findings whose label and place are known exactly.

`ct` reads the volume, `findings` puts findings into it, `render` projects and exposes it, `dicom` writes the result,
`make_samples` makes the samples that are packaged with lrclr.
"""
