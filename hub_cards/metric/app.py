"""Computes the metric of this Space from a table of points."""

from pathlib import Path

import evaluate
import gradio as gr


(MODULE,) = [path for path in Path(__file__).parent.glob("*.py") if path.name != "app.py"]
metric = evaluate.load(str(MODULE))


def compute(points: list[list[float]], y_max: float | None) -> str:
    try:
        rows = [(float(tokens), float(accuracy)) for tokens, accuracy in points]
        scores = metric.compute(
            tokens_per_forward=[row[0] for row in rows], accuracy=[row[1] for row in rows], y_max=y_max or None
        )
    except ValueError as error:
        raise gr.Error(str(error)) from error
    return "\n".join(f"{name}: {value:.2f}" for name, value in scores.items())


with gr.Blocks(title=MODULE.stem.upper()) as demo:
    gr.Markdown(f"# {MODULE.stem.upper()}\n\n{metric.description}")
    points = gr.Dataframe(
        headers=["tokens per forward", "accuracy in percent"], type="array", datatype="number", row_count=2
    )
    y_max = gr.Number(label="Best known accuracy, in percent (empty: the best of these)", value=None)
    start = gr.Button("Compute", variant="primary")
    scores = gr.Textbox(label="Scores")
    start.click(compute, [points, y_max], scores)

if __name__ == "__main__":
    demo.launch()
