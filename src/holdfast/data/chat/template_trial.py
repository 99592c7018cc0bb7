"""Render a chat template once, for `template_source`: whether it comes to an end is the answer. Never imported.

It needs Jinja alone, so that a trial takes a tenth of a second; the environment has what transformers gives templates.
"""

import datetime
import json
import sys
from typing import Any

import jinja2.ext
import jinja2.sandbox

LONGEST = 1_000_000
"""Characters around a few short messages that no honest template writes."""


class Generation(jinja2.ext.Extension):
    """The tag `generation`, which marks answers and writes nothing."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Any) -> Any:
        """Give what stands inside."""
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def raise_template_error(message: str) -> None:
    """Do as transformers does where a template refuses a conversation."""
    raise jinja2.TemplateError(message)


def find_fault(source: str, renderings: list[dict[str, Any]]) -> str:
    """What is wrong with a template that has no end; "" where there is one, whether it takes the conversations or not.

    Args:
        renderings: The variables of each rendering.
    """
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda x, **options: json.dumps(x, **{"ensure_ascii": False, **options})
    environment.globals["raise_exception"] = raise_template_error
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)  # as it is rendered
    try:
        template = environment.from_string(source)
    except RecursionError:
        return "is nested too deep"
    except Exception:
        return ""  # not well formed: it is said where it is rendered, in transformers' words
    for variables in renderings:
        size = 0
        try:
            for block in template.generate(variables):
                size += len(block)
                if size > LONGEST:
                    return f"writes more than {LONGEST:,} characters around a few words"
        except RecursionError:
            return "calls itself without end"
        except OverflowError as error:
            return f"counts too far ({error})"
        except MemoryError:
            raise
        except Exception:
            continue  # it refuses this conversation, as it may
    return ""


if __name__ == "__main__":
    request = json.load(sys.stdin)
    print(json.dumps(find_fault(request["source"], request["rendered"])))
