"""The demo Space: two models or presets fill their canvases side by side."""

from pathlib import Path

from canvas_space.interface import build, read_settings


demo = build(read_settings(Path(__file__).parent / "settings.json"))

if __name__ == "__main__":
    demo.launch()
