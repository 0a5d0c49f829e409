"""Pictures of results, fit for one column of a paper.

Each function takes a table and, if it is to be saved, a path (`.png`, `.svg`, `.pdf`), and returns
a matplotlib Figure. No global state is read or changed; the same table gives the same bytes.
"""

from probe.figures.accuracy import accuracy_against_fraction
from probe.figures.cka import cka_against_fraction
from probe.figures.classes import class_lines
from probe.figures.inequality import inequality_against_accuracy
from probe.figures.matrix import cka_matrix
from probe.figures.ratio import ratio_against_fraction
from probe.figures.redundancy import redundancy_curve
from probe.figures.spectrum import spectra
from probe.figures.style import SUFFIXES

__all__ = [
    "SUFFIXES",
    "accuracy_against_fraction",
    "cka_against_fraction",
    "cka_matrix",
    "class_lines",
    "inequality_against_accuracy",
    "ratio_against_fraction",
    "redundancy_curve",
    "spectra",
]
