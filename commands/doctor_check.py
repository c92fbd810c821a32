"""What a check of `d3llm doctor` found."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """
    What a check found.

    Attributes:
        name (`str`): What was checked.
        status (`str`): `"ok"`; `"warning"`, when something works less well than it could, or was not checked; or
            `"error"`, when something does not work.
        found (`str`): One line.
        remedy (`str`, *optional*): What to do about it.
    """

    name: str
    status: Literal["ok", "warning", "error"]
    found: str
    remedy: str | None = None

    def line(self) -> str:
        """The check as a line of text."""
        return f"{self.status:<8}{self.name:<11}{self.found}" + (f"; {self.remedy}" if self.remedy else "")
