"""Records in which order a teacher commits its tokens on your prompts, and trains a student on that order."""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

from d3llm import (
    ExtractionConfig,
    LLaDAModelLM,
    PseudoTrajectoryConfig,
    PseudoTrajectoryTrainer,
    checkpoint_path,
    extract_trajectories,
    load_trajectories,
)


TEACHER = checkpoint_path("teacher")  # or a folder or Hub id with LLaDA weights
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 60
NUMBERS = ((3, 4, 5), (2, 9, 4), (5, 3, 6), (4, 4, 7), (6, 2, 3), (2, 8, 9), (3, 7, 8), (5, 5, 4))

# 1. Your prompts, one JSON object a line. With a column of answers, wrong responses can be dropped.
story = "Tom buys {} boxes of {} pens and gives {} pens away. How many pens does Tom have now?"
lines = [
    {"prompt": story.format(boxes, pens, gone), "answer": str(boxes * pens - gone)} for boxes, pens, gone in NUMBERS
]
Path("prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

# 2. The teacher's runs, one token per forward. An interrupted extraction resumes.
teacher = LLaDAModelLM.from_pretrained(TEACHER).eval()
extraction = ExtractionConfig(
    dataset="prompts.jsonl",
    output=Path("trajectories"),
    teacher="teacher",
    answer_column="answer",
    check="number",
    decoding={"max_new_tokens": 96},
)
extract_trajectories(teacher, AutoTokenizer.from_pretrained(TEACHER), extraction)

# 3. The student. The recipes of docs/training.md are sets of these fields.
trainer = PseudoTrajectoryTrainer(
    model=str(TEACHER),
    args=PseudoTrajectoryConfig(
        output_dir="student",
        max_steps=STEPS,
        learning_rate=2e-4,
        per_device_train_batch_size=8,
        window_sizes=[16, 24, 32],
        report_to="none",
    ),
    train_dataset=load_trajectories("trajectories"),
)
trainer.train()
trainer.save_model()
trainer.create_model_card()
print("student: d3llm generate --model student --preset d3llm --prompt ...")
