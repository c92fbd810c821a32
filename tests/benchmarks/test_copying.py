"""The benchmark of the teacher's first heads asks only for what can be copied."""

import json

import pytest

from benchmarks import copying
from d3llm.quickstart.train_teacher import TeacherTrainer


def test_what_is_asked_is_a_piece_after_a_known_piece_of_a_word_of_the_question():
    trainer = TeacherTrainer(copying.lists_alone(False, 4, 0), num_workers=1)
    batch = trainer.lesson.make_batch(trainer.recipe, 0)
    asked = copying.later_pieces(trainer, batch)
    assert asked.any() and not asked[batch.input_ids != trainer.ids.mask].any()
    for row, column in asked.nonzero().tolist():
        assert batch.input_ids[row, column - 1] != trainer.ids.mask
        pair = batch.labels[row, column - 1 : column + 1].tolist()
        pairs = [batch.input_ids[row, place : place + 2].tolist() for place in range(batch.labels.shape[1])]
        assert pair in pairs


@pytest.mark.slow
def test_it_writes_what_it_counts(monkeypatch, tmp_path, capsys):
    file = tmp_path / "copying.json"
    arguments = ["copying", "--steps", "1", "--rows", "2", "--asked", "1", "--seeds", "0", "--threads", "1", "--json"]
    monkeypatch.setattr("sys.argv", [*arguments, str(file)])
    copying.main()
    rows = json.loads(file.read_text())["rows"]
    assert [row["heads"] for row in rows] == ["random", "copying"]
    assert all(row["share"] == row["copied"] / row["asked"] for row in rows)
    assert capsys.readouterr().out.count("% copied (") == 2
