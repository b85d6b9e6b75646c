"""How flows and solvers show themselves: as they were written, defaults left out."""

import dataclasses
from typing import Any


class Brief:
    """`Implicit(CG())` instead of every field."""

    def __repr__(self) -> str:
        if not dataclasses.is_dataclass(self):  # a flow of a user's own
            return f"{type(self).__name__}()"
        shown: list[str] = []
        ordered = True  # while fields are given by position
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value: Any = getattr(self, field.name)
            required = field.default is dataclasses.MISSING
            if required and ordered:
                shown.append(repr(value))
                continue
            ordered = False
            if required or (value is not field.default and value != field.default):
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"
