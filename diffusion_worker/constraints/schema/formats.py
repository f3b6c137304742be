"""The `format` values that the automaton enforces, as regular expressions. Every other format is an annotation, as the
specification allows.

The expressions describe a normal form inside each format (RFC 3339, 4122, 5321, 5322, 1123, 3986, 4291): dates exist in
the calendar, e-mail addresses are unquoted, URIs carry a scheme and, after `//`, a host. Lengths are not limited.
"""

from typing import Final

_YEAR: Final = r"(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_LEAP: Final = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE: Final = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    rf"|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK: Final = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
_ZONE: Final = r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_BYTE: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4: Final = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_GROUP: Final = r"[0-9a-fA-F]{1,4}"
_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL})*"
_ATOM: Final = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_PLAIN: Final = r"[a-zA-Z0-9._~!$&'()*+,;=:@-]"
_PCHAR: Final = rf"(?:{_PLAIN}|%[0-9a-fA-F]{{2}})"
_PATH: Final = rf"(?:/{_PCHAR}*)*"
_QUERY_AND_FRAGMENT: Final = rf"(?:\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?"
_AUTHORITY: Final = r"(?:[a-zA-Z0-9._~!$&'()*+,;=%-]+@)?[a-zA-Z0-9._~-]+(?::\d{1,5})?"
_URI: Final = rf"[a-zA-Z][a-zA-Z0-9+.-]*:(?://{_AUTHORITY}{_PATH}|{_PCHAR}+{_PATH}){_QUERY_AND_FRAGMENT}"
_DURATION_TIME: Final = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_DURATION_DATE: Final = r"(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)"


def _ipv6() -> str:
    """Full, or with one `::` for at least one group (RFC 4291); without the dotted IPv4 notation."""
    forms = [rf"{_GROUP}(?::{_GROUP}){{7}}"]
    for before in range(8):
        head = rf"{_GROUP}(?::{_GROUP}){{{before - 1}}}" if before else ""
        after = 7 - before
        after_name = rf"(?:{_GROUP}(?::{_GROUP}){{0,{after - 1}}})?" if after else ""
        forms.append(f"{head}::{after_name}")
    return "|".join(forms)


FORMATS: Final[dict[str, str]] = {
    "date": _DATE,
    "time": _CLOCK + _ZONE,
    "date-time": f"{_DATE}T{_CLOCK}{_ZONE}",
    "duration": rf"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|\d+W)",
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "ipv4": _IPV4,
    "ipv6": _ipv6(),
    "email": rf"{_ATOM}(?:\.{_ATOM})*@{_HOST}",
    "hostname": _HOST,
    "uri": _URI,
    # relative references begin with a segment that holds no colon
    "uri-reference": rf"(?:{_URI}|(?://{_AUTHORITY})?{_PATH}{_QUERY_AND_FRAGMENT}|(?:[a-zA-Z0-9._~!$&'()*+,;=@-]|%[0-9a-fA-F]{{2}})+{_PATH}{_QUERY_AND_FRAGMENT})",
    "json-pointer": r"(?:/(?:[^~/]|~[01])*)*",
}
