"""The day that a chat template writes: one for all rows of a store, whenever they are made.

Templates of Llama, Mistral and others write the day of today into system messages, which transformers tells them
(`strftime_now`). A run that goes on after midnight, a repair a week later or a check of a finished store would make
other rows. So the day is put into the template's own text, for our renders and for the processor's alike.
"""

from __future__ import annotations

from datetime import datetime
from string import ascii_letters
from typing import TypeGuard

ASKS = "strftime_now"
"""The function of transformers that a template calls."""


def asks_for_the_day(template: object) -> TypeGuard[str]:
    """Whether a chat template calls for the day."""
    return isinstance(template, str) and ASKS in template


def today() -> str:
    """Return the day, in ISO form."""
    return datetime.now().date().isoformat()


def with_day(template: str, day: str) -> str:
    """Return a chat template in which the function tells the day given, at midnight.

    Args:
        template: Jinja.
        day: in ISO form.
    """
    moment = datetime.fromisoformat(day)
    directives = [f"%{flag}{letter}" for flag in ("-", "") for letter in ascii_letters]
    told = {each: moment.strftime(each) for each in directives}
    # longest first; what strftime does not know it returns as it is
    filters = "".join(f" | replace({each!r}, {text!r})" for each, text in told.items() if text != each)
    macro = f"{{% macro {ASKS}(format) %}}{{{{ format{filters} | replace('%%', '%') }}}}{{% endmacro %}}"
    return f"{macro}{{{{ '' }}}}{template}"  # the empty print keeps a line break that the template may begin with
