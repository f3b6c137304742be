"""The `format` values that the automaton enforces, as regular expressions. Every other format is an annotation, as the
specification allows.

Each expression is the grammar of the format's RFC, or a part of it that holds what is in use: no year 0000, leap
seconds only where UTC has had them (23:59:60 on 30 June and 31 December, written in UTC), no reserved operators of URI
templates, and no index manipulation in relative JSON pointers, which only one of their drafts has. Lengths of labels
and addresses are not limited. `regex` is no regular language, and which labels `idn-hostname` and `idn-email` allow
depends on tables of Unicode (RFC 5892), so these are annotations.

`COMPACT` has the same formats for large schemas: without IP addresses in brackets, which take 160 states at each
position.
"""

from typing import Final

# RFC 3339, section 5.6
_YEAR: Final = r"(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_LEAP_YEAR: Final = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE: Final = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    rf"|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_FRACTION: Final = r"(?:\.\d+)?"
_CLOCK: Final = rf"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d{_FRACTION}(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_LEAP_SECOND: Final = rf"23:59:60{_FRACTION}(?:[Zz]|[+-]00:00)"
_DURATION_TIME: Final = r"T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"  # appendix A
_DURATION_DATE: Final = r"(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)"

# RFC 4291, section 2.2, as in the grammar of RFC 3986
_BYTE: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4: Final = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_GROUP: Final = r"[0-9a-fA-F]{1,4}"

# RFC 1123, section 2.1
_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = rf"{_LABEL}(?:\.{_LABEL})*"

# RFC 5321, section 4.1.2
_ATOM: Final = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_QUOTED: Final = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_LOCAL_PART: Final = rf"(?:{_ATOM}(?:\.{_ATOM})*|{_QUOTED})"

# RFC 3986, appendix A, and RFC 3987, section 2.2
_UNRESERVED: Final = r"a-zA-Z0-9._~\-"
_SUB_DELIMS: Final = r"!$&'()*+,;="
_ESCAPED: Final = r"%[0-9a-fA-F]{2}"
_UCSCHAR: Final = "\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef" + "".join(
    f"{chr((plane << 16) + (0x1000 if plane == 14 else 0))}-{chr((plane << 16) + 0xFFFD)}" for plane in range(1, 15)
)
_IPRIVATE: Final = "\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd"

# RFC 6570, section 2; RFC 6901, section 3
_VARIABLE: Final = rf"(?:[a-zA-Z0-9_]|{_ESCAPED})(?:\.?(?:[a-zA-Z0-9_]|{_ESCAPED}))*(?:\*|:[1-9]\d{{0,3}})?"
_EXPRESSION: Final = rf"\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}}"
_TEMPLATE: Final = rf"(?:[!#$&(-;=?-\[\]_a-z~{_UCSCHAR}{_IPRIVATE}]|{_ESCAPED}|{_EXPRESSION})*"
_POINTER: Final = r"(?:/(?:[^~/]|~[01])*)*"


def _ipv6() -> str:
    """All groups, or one `::` for at least one of them; the last two may be an IPv4 address."""
    last = rf"(?:{_GROUP}:{_GROUP}|{_IPV4})"
    forms = [rf"(?:{_GROUP}:){{6}}{last}"]
    for before in range(8):
        head = rf"(?:(?:{_GROUP}:){{0,{before - 1}}}{_GROUP})?" if before else ""
        after = rf"(?:{_GROUP}:){{{5 - before}}}{last}" if before < 6 else _GROUP if before == 6 else ""
        forms.append(f"{head}::{after}")
    return "|".join(forms)


_IPV6: Final = _ipv6()
_LITERAL: Final = rf"\[(?:{_IPV6}|[vV][0-9a-fA-F]+\.[{_UNRESERVED}{_SUB_DELIMS}:]+)\]"
_ADDRESS: Final = rf"\[(?:{_IPV4}|[Ii][Pp][Vv]6:(?:{_IPV6}))\]"


def _references(literal: str, more: str = "", private: str = "") -> tuple[str, str]:
    """The grammars of a URI and of a reference to one. `literal`: hosts in brackets, or nothing; `more` are further
    characters, as an IRI has them, and `private` those of its query only."""
    char = rf"(?:[{_UNRESERVED}{_SUB_DELIMS}:@{more}]|{_ESCAPED})"
    no_colon = rf"(?:[{_UNRESERVED}{_SUB_DELIMS}@{more}]|{_ESCAPED})"
    name = rf"(?:[{_UNRESERVED}{_SUB_DELIMS}{more}]|{_ESCAPED})*"
    user = rf"(?:[{_UNRESERVED}{_SUB_DELIMS}:{more}]|{_ESCAPED})*@"
    host = f"(?:{literal}|{name})" if literal else name
    segments = f"(?:/{char}*)*"
    located = rf"//(?:{user})?{host}(?::\d*)?{segments}"
    absolute = f"/(?:{char}+{segments})?"
    end = rf"(?:\?(?:[{_UNRESERVED}{_SUB_DELIMS}:@/?{more}{private}]|{_ESCAPED})*)?(?:#(?:{char}|[/?])*)?"
    whole = f"[a-zA-Z][a-zA-Z0-9+.-]*:(?:{located}|{absolute}|{char}+{segments})?{end}"
    return whole, f"(?:{whole}|(?:{located}|{absolute}|{no_colon}+{segments})?{end})"


def _formats(literal: str, address: str) -> dict[str, str]:
    uri, uri_reference = _references(literal)
    iri, iri_reference = _references(literal, _UCSCHAR, _IPRIVATE)
    return {
        "date": _DATE,
        "time": f"{_CLOCK}|{_LEAP_SECOND}",
        "date-time": rf"{_DATE}[Tt]{_CLOCK}|{_YEAR}-(?:06-30|12-31)[Tt]{_LEAP_SECOND}",
        "duration": rf"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|\d+W)",
        "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",  # RFC 4122, section 3
        "ipv4": _IPV4,
        "ipv6": _IPV6,
        "email": rf"{_LOCAL_PART}@(?:{_HOST}{address and '|' + address})",
        "hostname": _HOST,
        "uri": uri,
        "uri-reference": uri_reference,
        "iri": iri,
        "iri-reference": iri_reference,
        "uri-template": _TEMPLATE,
        "json-pointer": _POINTER,
        "relative-json-pointer": rf"(?:0|[1-9]\d*)(?:#|{_POINTER})",
    }


FORMATS: Final = _formats(_LITERAL, _ADDRESS)
COMPACT: Final = _formats("", "")
