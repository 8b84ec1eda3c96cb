"""Notes with markup: HTML is recognised and its tags are taken away, RTF is recognised."""

from __future__ import annotations

import html
import re

__all__ = ["has_html", "is_rtf", "without_html"]

_NAMES = (
    "a|abbr|address|article|b|big|blockquote|body|br|caption|center|code|col|colgroup|dd|div|dl|dt|em|font|footer|form|"
    "h[1-6]|head|header|hr|html|i|img|input|label|li|link|main|meta|nav|o:p|ol|option|p|pre|s|section|select|small|"
    "span|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul"
)
_UNSEEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>|<!doctype\b[^<>]*>|<\?xml\b[^<>]*>", re.I | re.S)
_LINES = re.compile(r"</?(?:br|dd|div|dt|h[1-6]|hr|li|p|table|tr|ul|ol|title)(?=[\s/>])[^<>]*>", re.I)
_CELLS = re.compile(r"</?(?:td|th)(?=[\s/>])[^<>]*>", re.I)
_TAGS = re.compile(rf"</?(?:{_NAMES})(?=[\s/>])[^<>]*>", re.I)
_SURE = re.compile(rf"</(?:{_NAMES})\s*>|<(?:br|hr|p|div|html|body|span|table|img|font)(?=[\s/>])[^<>]*>", re.I)
_ENTITY = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|[aeiou](?:uml|acute|grave|circ)|szlig|deg|micro|#[0-9]+|#x[0-9a-f]+);", re.I
)


def has_html(text: str) -> bool:
    """Whether a text has HTML's tags or letters.

    Example:
        >>> has_html("<p>CRP &lt; 5</p>"), has_html("CRP <5, K<Na, a<b>c")
        (True, False)
    """
    return bool(
        ("<" in text and (_SURE.search(text) or _UNSEEN.search(text))) or ("&" in text and _ENTITY.search(text))
    )


def without_html(text: str) -> str:
    """A text without the tags of HTML, a line for each paragraph, entry and row of a table.

    Only HTML's own tags go: a "<" before a number or another word stays.

    Example:
        >>> without_html("<p>CRP&nbsp;&lt;&nbsp;5<br/>K<Na</p><style>p {}</style>")
        'CRP < 5\\nK<Na'
    """
    text = _LINES.sub("\n", _UNSEEN.sub(" ", text))
    text = html.unescape(_TAGS.sub("", _CELLS.sub(" ", text))).replace("\xa0", " ")
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def is_rtf(text: str) -> bool:
    """Whether a text is the source of an RTF document."""
    return text.lstrip().startswith("{\\rtf")
