"""The fields of the decoding config, each declared once: default, type and range.

Python, the command line and generation_config.json are checked against this table, and the help of the command line
is generated from it.
"""

import difflib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from transformers import CompileConfig

from .presets import PRESETS


LARGEST = 2**31 - 1  # positions and forwards are far below, and int64 tensors hold it

MOST_COPIES = 2**16  # of a prompt: all are decoded at once, and more would run out of memory


def suggestion(value: Any, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(value), list(choices), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


@dataclass(frozen=True)
class Whole:
    """A whole number from `least` to `most`."""

    least: int = 0
    most: int = LARGEST

    def fault(self, value: Any) -> str | None:
        """The fault of a value, as the end of a sentence that begins with it; `None` if it has none."""
        if isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most:
            return None
        most = "" if isinstance(value, int) and value < self.least else f" and at most {self.most}"
        return f"must be a whole number of at least {self.least}{most}"


@dataclass(frozen=True)
class Number:
    """A finite number from `least` to `most`; without `least` itself if that is not `inclusive`."""

    least: float = 0
    most: float = 1e9
    inclusive: bool = True

    def fault(self, value: Any) -> str | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            above = self.least <= value if self.inclusive else self.least < value
            if above and value <= self.most:
                return None
        return f"is out of its range {'[' if self.inclusive else '('}{self.least:g}, {self.most:g}]"


@dataclass(frozen=True)
class Choice:
    """One of some names, which may become more: `register_preset` and `register_rule` add to them."""

    names: Collection[str]

    def fault(self, value: Any) -> str | None:
        if isinstance(value, str) and value in self.names:
            return None
        return f"is unknown{suggestion(value, self.names)}: choose one of {tuple(self.names)}"


@dataclass(frozen=True)
class Flag:
    """`True` or `False`."""

    def fault(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else "must be True or False"


@dataclass(frozen=True)
class Text:
    """A text of at least one character."""

    def fault(self, value: Any) -> str | None:
        return None if isinstance(value, str) and value else "must be a text of at least one character"


@dataclass(frozen=True)
class OneOrMore:
    """A value of a kind, or a list of at least one."""

    kind: Whole | Text

    def fault(self, value: Any) -> str | None:
        values = value if isinstance(value, (list, tuple)) else [value]
        fault = next(filter(None, map(self.kind.fault, values)), None) if values else self.kind.fault(None)
        return f"{fault}, or a list of such" if fault else None


@dataclass(frozen=True)
class Compilation:
    """A `CompileConfig` of transformers."""

    def fault(self, value: Any) -> str | None:
        return None if isinstance(value, CompileConfig) else "must be a CompileConfig"


Kind = Whole | Number | Choice | Flag | Text | OneOrMore | Compilation


@dataclass(frozen=True)
class Field:
    """
    A field of the config.

    Attributes:
        default (`Any`): Its value when neither the caller nor the preset gives one.
        kind (`Kind`): What it may be; `None` is always "not given".
        added (`bool`): Whether result files of earlier versions lack it. It is then recorded only where it differs
            from its default, so that their runs resume.
    """

    default: Any
    kind: Kind
    added: bool = False


SCORES = ("probability", "entropy", "margin", "random", "position")
SELECTIONS = [
    "count",
    "fraction",
    "bernoulli",
    "threshold",
    "scheduled_threshold",
    "threshold_or_count",
    "factor",
    "frechet",
    "entropy_bound",
    "runs",
    "prefix",
    "slots",
]
STOP_RULES = ("at_once", "no_gap", "new_eos", "block")
DRAFT_ORDERS = ("score", "left_to_right")
ASSISTANT_RULES = ("exact", "lossless_distribution")
CACHES = ("none", "prefix", "dual", "delayed", "block", "opened", "vicinity")
PROGRESS = ("best", "first_block", "best_and_first_block", "every_block")
TOKEN = Whole()

# The method: a preset sets these, and a preset named in a call replaces all of them.
METHOD_FIELDS = {
    "block_size": Field(32, Whole(1)),
    "steps": Field(None, Whole(1)),
    "eps": Field(1e-3, Number(0, 1, inclusive=False)),
    "score": Field("entropy", Choice(SCORES)),
    "selection": Field("threshold", Choice(SELECTIONS)),
    "threshold": Field(0.5, Number()),
    "factor": Field(None, Number()),
    "frechet_margin": Field(0.25, Number(0, 1), added=True),
    "entropy_bound": Field(None, Number()),
    "run_threshold": Field(None, Number(0, 1), added=True),
    "slot_size": Field(32, Whole(1), added=True),
    "slot_threshold": Field(0.9, Number(0, 1), added=True),
    "token_threshold": Field(0.3, Number(0, 1), added=True),
    "position_penalty": Field(0.0, Number(), added=True),
    "forced_progress": Field("best", Choice(PROGRESS)),
    "forced_score": Field(None, Choice(SCORES)),
    "block_add_threshold": Field(1.0, Number(0, 1)),
    "block_activate_threshold": Field(1.0, Number(0, 1)),
    "max_active_blocks": Field(None, Whole(1), added=True),
    "attention": Field("bidirectional", Choice(("bidirectional", "block_causal", "causal"))),
    "attention_block_size": Field(None, Whole(1), added=True),
    "credit_weight": Field(0.0, Number(), added=True),
    "credit_power": Field(0.2, Number(), added=True),
    "credit_decay": Field(0.8, Number(0, 1), added=True),
    "early_stop_rule": Field("at_once", Choice(STOP_RULES), added=True),
    "edit_threshold": Field(None, Number(0, 1), added=True),
    "edit_forwards": Field(16, Whole(1), added=True),
    "edit_until": Field(None, Number(0, 1), added=True),
    "soft_inputs": Field(False, Flag(), added=True),
    "cache": Field("none", Choice(CACHES)),
    "cache_delay": Field(1, Whole(0)),
    "cache_refresh_interval": Field(None, Whole(1)),
    "cache_margin": Field(16, Whole(0), added=True),
    "draft_states": Field(1, Whole(1, 64), added=True),
    "draft_order": Field("score", Choice(DRAFT_ORDERS), added=True),
    "draft_chance": Field(0.02, Number(0, 1), added=True),
    "branches": Field(1, Whole(1, 64), added=True),
    "leave_completed_blocks": Field(False, Flag(), added=True),
    "window_edge": Field("exact", Choice(("exact", "published"))),
}
# The run: these apply to every method.
RUN_FIELDS = {
    "preset": Field(None, Choice(PRESETS)),
    "max_new_tokens": Field(256, Whole(1)),
    "early_stop": Field(True, Flag()),
    "cfg_scale": Field(0.0, Number()),
    "temperature": Field(0.0, Number()),
    "num_return_sequences": Field(1, Whole(1, MOST_COPIES)),
    "seed": Field(None, OneOrMore(Whole(0, 2**64 - 1))),
    "assistant_rule": Field("exact", Choice(ASSISTANT_RULES), added=True),
    "output_logprobs": Field(False, Flag()),
    "output_history": Field(False, Flag()),
    "mask_token_id": Field(None, TOKEN),
}
# Inherited fields of GenerationConfig that mean the same here; any other one has no effect on a diffusion decoder.
INHERITED_FIELDS = {
    "max_length": Field(None, Whole(1)),
    "compile_config": Field(None, Compilation()),
    "max_time": Field(None, Number()),
    "stop_strings": Field(None, OneOrMore(Text())),
    "do_sample": Field(None, Flag()),
    "top_k": Field(None, Whole(0)),
    "top_p": Field(None, Number(0, 1, inclusive=False)),
    "use_cache": Field(None, Flag()),
    "return_dict_in_generate": Field(None, Flag()),
    "pad_token_id": Field(None, TOKEN),
    "bos_token_id": Field(None, OneOrMore(TOKEN)),
    "eos_token_id": Field(None, OneOrMore(TOKEN)),
}
FIELDS = {**METHOD_FIELDS, **RUN_FIELDS, **INHERITED_FIELDS}
METHOD_DEFAULTS = {name: field.default for name, field in METHOD_FIELDS.items()}
RUN_DEFAULTS = {name: field.default for name, field in RUN_FIELDS.items()}
CHOICES = {name: field.kind.names for name, field in FIELDS.items() if isinstance(field.kind, Choice)}
# Selections that follow a number of `steps`.
SCHEDULED = ("count", "fraction", "bernoulli", "scheduled_threshold", "threshold_or_count")


def check_names(names: Iterable[str], known: Collection[str]) -> None:
    """Raise a `ValueError` that names the first of `names` that is not in `known`, and the nearest known one."""
    for name in names:
        if name not in known:
            raise ValueError(f"unknown generation field `{name}`{suggestion(name, known)}")


def check_value(name: str, value: Any) -> None:
    """Raise a `ValueError` for a value of a field that is not what the field is declared to be."""
    fault = None if value is None else FIELDS[name].kind.fault(value)
    if fault:
        raise ValueError(f"`{name}`={shown(value)} {fault}")
