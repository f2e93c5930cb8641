"""What pynxtools finds, as sentences: it joins path, kind and values of a problem without a gap."""

from __future__ import annotations

import re

__all__ = ["plainly"]

_PROBLEM = "ValidationProblem."
#: Kind of a problem → what is wrong; `value` is what pynxtools has behind the kind.
_SENTENCES = {
    "MissingRequiredGroup": "the required group {path} is missing",
    "MissingRequiredField": "the required field {path} is missing",
    "MissingRequiredAttribute": "the required attribute {path} is missing",
    "InvalidEnum": "{path} must be one of {value}",
    "InvalidType": "{path} must be of type {value}",
    "InvalidUnit": "{path} does not suit the definition of {value}",
    "MissingUnit": "{path} has no unit: expected one of {value}",
    "InvalidDatetime": "{path} must be a time with its zone (ISO 8601), found {value!r}",
    "IsNotPosInt": "{path} must be a positive whole number, found {value}",
    "ExpectedGroup": "{path} must be a group",
    "ExpectedField": "{path} must be a field",
    "BrokenLink": "the link {path} leads to {value}, which is not there",
    "TargetAttributeMismatch": "the link {path} has another @target than its own: {value}",
    "NXdataMissingSignalData": "the signal {path} is missing",
    "NXdataMissingAxisData": "the axis {path} is missing",
    "NXdataAxisMismatch": "the length of the axis {path} does not fit {value}",
    "NXdataNoConvention": "{path} does not say what to plot",
}


def plainly(problem: str) -> str:
    """Return a problem of pynxtools as a sentence; anything else as it is.

    Examples
    --------
    >>> plainly("/entry/titleValidationProblem.MissingRequiredFieldNone")
    'the required field /entry/title is missing'
    >>> plainly("/entry/aValidationProblem.SymbolSizeMismatchNone")
    '/entry/a: symbol size mismatch'
    """
    path, found, rest = problem.partition(_PROBLEM)
    if not found:
        return problem
    for kind, sentence in _SENTENCES.items():
        if rest.startswith(kind):
            value = re.sub(r" \((req|opt|rec)\)$", "", rest.removeprefix(kind))
            return sentence.format(path=path, value=re.sub(r"^[\[(](.*)[\])]$", r"\1", value))
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", rest.removesuffix("None"))
    return f"{path}: {words.lower()}"
