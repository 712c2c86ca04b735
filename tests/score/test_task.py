import pytest

from vila2cli.errors import DataError, RecipeError
from vila2cli.score.scorer import Vocabulary
from vila2cli.score.task import find_tasks, load_task
from vila2cli.shards.sample import Sample

CAPTION_TASK = """
name = "world-caption"
version = 2
answer_type = "caption"
question = "Describe the image in details."
[vocabulary]
size = ["small", "large"]
colour = ["red"]
shape = ["circle"]
place = ["top left"]
"""


def write_task(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(text)
    return folder


def test_a_task_is_read_with_its_defaults(tmp_path):
    task = load_task(write_task(tmp_path / "colour", 'answer_type = "short"'))
    assert (task.name, task.version, task.scorer.name, task.question) == ("colour", "1", "short", None)
    assert not task.is_caption


def test_a_caption_task_has_a_vocabulary(tmp_path):
    task = load_task(write_task(tmp_path / "c", CAPTION_TASK))
    assert (task.name, task.version, task.scorer.name) == ("world-caption", "2", "facts")
    assert task.vocabulary == Vocabulary(("small", "large"), ("red",), ("circle",), ("top left",))
    assert task.is_caption


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("answer_type = ", "cannot read"),
        ("", "answer_type is ''"),
        ('answer_type = "essay"', "should be one of yesno"),
        ('answer_type = "short"\nscorer = "vqaa"', "did you mean vqa"),
        ('answer_type = "short"\nscorer = "facts"', "cannot be scored by 'facts'"),
        ('answer_type = "caption"\nscorer = "short"', "cannot be scored by 'short'"),
        ('answer_type = "caption"', r"\[vocabulary\]"),
        ('answer_type = "caption"\n[vocabulary]\nsize = ["large"]', "vocabulary.colour"),
        ('answer_type = "short"\nquestion = 3.5', "question should be a text"),
        ('answer_type = "short"\nname = "../x"', "cannot be a folder's name"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(tmp_path, text, problem):
    with pytest.raises(DataError, match=problem) as caught:
        load_task(write_task(tmp_path / "t", text))
    assert "task.toml" in str(caught.value)


def test_tasks_are_found_in_folders_globs_and_folders_of_folders(tmp_path):
    for name in ("b", "a"):
        write_task(tmp_path / "eval" / name, 'answer_type = "short"')
    (tmp_path / "eval" / "notes").mkdir()
    for spec in (tmp_path / "eval", tmp_path / "eval/*", str(tmp_path / "eval/[ab]")):
        assert [task.name for task in find_tasks([spec])] == ["a", "b"]
    both = [tmp_path / "eval/b", tmp_path / "eval/*"]
    assert [task.name for task in find_tasks(both)] == ["b", "a"]


def test_a_glob_may_be_relative(tmp_path, monkeypatch):
    write_task(tmp_path / "eval" / "a", 'answer_type = "short"')
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert [task.name for task in find_tasks(["../eval/*"])] == ["a"]


def test_a_spec_without_a_task_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no task.toml in .*nowhere"):
        find_tasks([tmp_path / "nowhere"])


def test_tasks_of_one_name_are_named_by_what_tells_their_folders_apart(tmp_path):
    for folder in ("x/colour", "y/colour", "x/size"):
        write_task(tmp_path / folder, 'answer_type = "short"')
    for specs in (["x", "y"], ["y", "x"], ["x/*", "y/colour", "x/../y"]):
        found = find_tasks([tmp_path / spec for spec in specs])
        names = {task.folder.resolve().relative_to(tmp_path).as_posix(): task.name for task in found}
        assert names == {"x/colour": "colour@x", "y/colour": "colour@y", "x/size": "size"}, specs
    assert [task.name for task in find_tasks([tmp_path / "x"])] == ["colour", "size"]


def test_tasks_that_name_themselves_alike_are_told_apart_by_their_own_folders(tmp_path):
    for folder in ("a/v1", "a/v2", "b/v1"):
        write_task(tmp_path / folder, 'answer_type = "short"\nname = "pope"')
    assert [task.name for task in find_tasks([tmp_path / "a"])] == ["pope@v1", "pope@v2"]
    three = find_tasks([tmp_path / "a", tmp_path / "b"])
    assert [task.name for task in three] == ["pope@a-v1", "pope@a-v2", "pope@b-v1"]


def test_a_frame_for_boxes_that_is_none_is_an_error(tmp_path):
    folder = write_task(tmp_path / "box", 'answer_type = "box"\nscorer = "refcoco"')
    write_task(tmp_path / "colour", 'answer_type = "short"')
    found = find_tasks([tmp_path], box_frame="xywh-pixel")
    assert [task.box_frame for task in found] == ["xywh-pixel", ""]
    with pytest.raises(RecipeError, match=r"eval\.box_frame is 'pixels'"):
        find_tasks([folder], box_frame="pixels")
    write_task(tmp_path / "bad", 'answer_type = "box"\nbox_frame = "cxcywh"')
    with pytest.raises(DataError, match="box_frame is 'cxcywh'"):
        load_task(tmp_path / "bad")


def test_the_question_of_the_task_goes_before_the_samples_own(tmp_path):
    sample = Sample(key="0", meta={"question": "Which colour?"})
    own = load_task(write_task(tmp_path / "own", 'answer_type = "short"'))
    shared = load_task(write_task(tmp_path / "shared", 'answer_type = "short"\nquestion = "What?"'))
    assert own.question_of(sample) == "Which colour?"
    assert shared.question_of(sample) == "What?"
    with pytest.raises(DataError, match="no 'question'"):
        own.question_of(Sample(key="1"))


@pytest.mark.parametrize("meta", [{"answers": "red"}, {"answers": [1]}, {"scene": "red"}])
def test_references_of_the_wrong_form_are_errors(tmp_path, meta):
    task = load_task(write_task(tmp_path / "t", 'answer_type = "short"'))
    with pytest.raises(DataError, match="should be"):
        task.reference_of(Sample(key="0", meta=meta))
