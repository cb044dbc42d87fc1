"""Text from a model that is safe to show: a terminal takes control characters for orders."""


def printable(text: str) -> str:
    """Returns the text with every character that is no letter, sign or space spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
