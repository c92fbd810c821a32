"""The tables of families and presets in the README, from the classes and presets.

`python -m tests.helpers.support_matrix` prints them.
"""

from d3llm.generation import PRESETS
from d3llm.modeling import FAMILIES


def families_table() -> str:
    lines = ["| family | class | attention | logits | checkpoints |", "|---|---|---|---|---|"]
    for family in FAMILIES:
        attention = family.attention or "bidirectional"
        if attention == "block_causal":
            attention = f"block-causal, blocks of {family.attention_block_size}"
        if attention == "causal":
            attention = "causal, over slots"
        logits = "of the next position" if family.logits_shift else "of the position"
        checkpoints = ", ".join(name.split("/")[1] for name in family.checkpoints)
        lines.append(f"| {family.display_name} | `{family.__name__}` | {attention} | {logits} | {checkpoints} |")
    return "\n".join(lines)


def presets_table() -> str:
    lines = ["| preset | models | cache | selection |", "|---|---|---|---|"]
    for preset in PRESETS.values():
        values = preset.values
        models = values.get("attention", "all").replace("_", "-")
        lines.append(f"| `{preset.name}` | {models} | {values.get('cache', 'none')} | {values['selection']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(families_table(), presets_table(), sep="\n\n")
