"""With a PACS: images from DICOMweb, results sent back, and a receiver for what a PACS or a modality pushes."""

from lrclr.pacs._destination import (
    SENT_KINDS,
    Destination,
    DimseDestination,
    FolderDestination,
    WebDestination,
    destination_of,
)
from lrclr.pacs._listener import Listener, ListenOptions
from lrclr.pacs._query import Query
from lrclr.pacs._remote import WebImages, find_web_images
from lrclr.pacs._scored import ScoredResults, ScoredSummary
from lrclr.pacs._spool import Spool, SpoolFullError
from lrclr.pacs._web import DicomwebClient, DicomwebOptions

__all__ = [
    "SENT_KINDS",
    "Destination",
    "DicomwebClient",
    "DicomwebOptions",
    "DimseDestination",
    "FolderDestination",
    "ListenOptions",
    "Listener",
    "Query",
    "ScoredResults",
    "ScoredSummary",
    "Spool",
    "SpoolFullError",
    "WebDestination",
    "WebImages",
    "destination_of",
    "find_web_images",
]
