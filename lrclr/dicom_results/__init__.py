"""Predictions as DICOM objects: structured reports, heat maps as secondary captures, presentation states."""

from lrclr.dicom_results._build import KINDS, Kind, ResultBuilder, ResultModel
from lrclr.dicom_results._codes import FINDING_CODES, FindingCode, finding_code
from lrclr.dicom_results._folder import RESULT_SUFFIXES, ResultFolders
from lrclr.dicom_results._source import MANUFACTURER, DicomSource, NotDicomError, ResultRefusedError

__all__ = [
    "FINDING_CODES",
    "KINDS",
    "MANUFACTURER",
    "RESULT_SUFFIXES",
    "DicomSource",
    "FindingCode",
    "Kind",
    "NotDicomError",
    "ResultBuilder",
    "ResultFolders",
    "ResultModel",
    "ResultRefusedError",
    "finding_code",
]
