"""`neuralese compare`: known samples, and what cannot be compared."""

import json
from dataclasses import asdict

import pytest
from test_cli import assert_one_paragraph, neuralese

from neuralese.pipeline.scoring.problem_samples import Sampled
from neuralese.pipeline.scoring.sample_files import SampleFile
from neuralese.pipeline.scoring.sampling_setting import Search, Setting


def write(folder, setting, right, scorer="exact_match", questions=None):
    """Samples of problems (P, n) that are right or wrong as said."""
    rows = {
        i: asdict(
            Sampled(
                question=questions[i] if questions else f"{i} + 1 =",
                texts=[f"### {ok}" for ok in row], scores=[float(ok) for ok in row], logprobs=[0.0] * len(row),
                tokens=[2] * len(row), latents=[1] * len(row), latents_made=len(row), seeds=[1] * len(row),
            )
        )
        for i, row in enumerate(right)
    }  # fmt: skip
    file = SampleFile(folder / f"{setting.name}.jsonl", {"scorer": scorer, "setting": asdict(setting)})
    file.finish(rows)
    return file.path


@pytest.fixture
def two(tmp_path):
    a, b = tmp_path / "a" / "samples" / "rl", tmp_path / "b" / "samples" / "curriculum"
    write(a, Setting(), [[1]] * 6 + [[0]] * 4)
    write(b, Setting(), [[1]] * 5 + [[0]] * 2 + [[1]] * 3)
    write(a, Setting(4, None, 1.0), [[1, 0, 0, 0]] * 10)
    write(b, Setting(4, None, 1.0), [[1, 1, 0, 0]] * 10)
    write(b, Setting(8, None, 1.0), [[1] * 8] * 10)
    return tmp_path / "a", tmp_path / "b"


def test_runs_are_compared_on_what_both_have(capsys, two, tmp_path):
    output = tmp_path / "c.json"
    code, out, _ = neuralese(capsys, "compare", *two, "--output", output)
    assert code == 0 and "samples/rl" in out and "samples/curriculum" in out
    rows = json.loads(output.read_text())
    assert [(row["setting"], row["metric"], row["k"]) for row in rows] == [
        ("greedy", "accuracy", 1), ("n4-T1", "pass@k", 1), ("n4-T1", "pass@k", 4)
    ]  # fmt: skip
    greedy, one, four = rows
    assert (greedy["a"], greedy["b"], greedy["n"]) == (0.6, 0.8, 10)
    assert (greedy["difference"]["only_a"], greedy["difference"]["only_b"]) == (1, 3)
    assert greedy["difference"]["p"] == pytest.approx(0.625)  # 2 (1 + 4) / 2⁴
    assert (one["a"], one["b"], one["difference"]["p"]) == (0.25, 0.5, None)
    assert (four["a"], four["b"], four["difference"]["value"]) == (1.0, 1.0, 0.0)


def test_two_files_are_compared_whatever_their_settings(capsys, two):
    files = [two[0] / "samples/rl/n4-T1.jsonl", two[1] / "samples/curriculum/n8-T1.jsonl"]
    code, out, _ = neuralese(capsys, "compare", *files, "-k", 4)
    assert code == 0 and "n4-T1 against n8-T1" in out


def test_what_a_search_found_is_compared_whole(capsys, two, tmp_path):
    found = write(tmp_path / "found", Setting(4, "gaussian:0.3", search=Search.tree(4, 1, 3)), [[1, 0, 0, 0]] * 10)
    output = tmp_path / "c.json"
    code, _, _ = neuralese(capsys, "compare", two[0] / "samples/rl/n4-T1.jsonl", found, "--output", output)
    assert code == 0 and [row["k"] for row in json.loads(output.read_text())] == [4]
    wide = two[1] / "samples/curriculum/n8-T1.jsonl"
    code, _, _ = neuralese(capsys, "compare", wide, found, "--output", output)
    assert code == 0 and [row["k"] for row in json.loads(output.read_text())] == [4]
    many = write(tmp_path / "found", Setting(8, "gaussian:0.3", search=Search.tree(8, 1, 3)), [[1] + [0] * 7] * 10)
    assert_one_paragraph(neuralese(capsys, "compare", many, found), "What a search found is compared whole")
    old = tmp_path / "old.jsonl"
    old.write_text(found.read_text().replace('"version": 3', '"version": 2'))
    assert_one_paragraph(neuralese(capsys, "compare", old, found), "is of version 2 of sample files")


def test_what_cannot_be_compared_is_said(capsys, two, tmp_path):
    a = two[0]
    write(tmp_path / "other", Setting(), [[1]] * 10, questions=[f"{i} + 2 =" for i in range(10)])
    message = "of 10 problems and"
    assert_one_paragraph(neuralese(capsys, "compare", a, tmp_path / "other"), message)
    write(tmp_path / "fewer", Setting(), [[1]] * 9)
    assert_one_paragraph(neuralese(capsys, "compare", a, tmp_path / "fewer"), "of 9; 9 problems are in both")
    write(tmp_path / "scorer", Setting(), [[1]] * 10, scorer="numeric")
    assert_one_paragraph(neuralese(capsys, "compare", a, tmp_path / "scorer"), "judged by 'exact_match' and")
    write(tmp_path / "way", Setting(2, None, 0.5), [[1, 1]] * 10)
    assert_one_paragraph(neuralese(capsys, "compare", a, tmp_path / "way"), "No samples were drawn in the same way")
    assert_one_paragraph(neuralese(capsys, "compare", a, tmp_path / "nowhere"), "holds no samples")
    files = [two[0] / "samples/rl/n4-T1.jsonl", two[1] / "samples/curriculum/n4-T1.jsonl"]
    assert_one_paragraph(neuralese(capsys, "compare", *files, "-k", 8), "k=8 is larger than the 4 samples")
