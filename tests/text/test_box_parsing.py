"""Boxes in the notations of papers and model cards, each read in its own order and frame."""

import pytest

from vila2cli.text.box_parsing import find_boxes, has_point, patch_box

BOX = (12, 34, 56, 78)


@pytest.mark.parametrize(
    ("text", "box", "frame"),
    [
        ("[12,34,56,78]", BOX, ""),
        ("The dog is at [12, 34, 56, 78].", BOX, ""),
        ("[[012,034,056,078]]", BOX, ""),  # CogVLM
        ("[[012,034,056,078;100,200,300,400]]", BOX, ""),
        ("[0.123, 0.2, .35, 0.4]", (0.123, 0.2, 0.35, 0.4), ""),  # Shikra, LLaVA
        ("(12,34),(56,78)", BOX, ""),
        ("[(12, 34), (56, 78)]", BOX, ""),
        ("[[12, 34], [56, 78]]", BOX, ""),
        ("(12,34) to (56,78)", BOX, ""),
        ("The top-left corner is (12, 34) and the bottom-right corner is (56, 78).", BOX, ""),
        (
            "<|object_ref_start|>the dog<|object_ref_end|><|box_start|>(12,34),(56,78)<|box_end|>",
            BOX,
            "xyxy-1000",
        ),
        ("<ref>the dog</ref><box>(12,34),(56,78)</box>", BOX, "xyxy-1000"),  # Qwen-VL
        ("<ref>the dog</ref><box>[[12, 34, 56, 78]]</box>", BOX, "xyxy-1000"),  # InternVL
        ("<box>12 34 56 78</box>", BOX, "xyxy-1000"),  # MiniCPM-V
        ('<point_box mention="dog"> (12,34) (56,78) </point_box>', BOX, "xyxy-1000"),  # Isaac
        ("<|box_start|><12><34><56><78>,<1><2><3><4><|box_end|>", BOX, "xyxy-999"),  # Rex-Omni
        ("<|box_start|><120><34><560><78><|box_end|>", (120, 34, 560, 78), "xyxy-999"),
        ('{"top_left": {"x": 12, "y": 34}, "bottom_right": {"x": 56, "y": 78}}', BOX, ""),
        ('{"top_left": [12, 34], "bottom_right": [56, 78]}', BOX, ""),
        ("<top_left>(12, 34)</top_left><bottom_right>(56, 78)</bottom_right>", BOX, ""),
        ("左上角坐标为(12, 34)，右下角坐标为(56, 78)。", BOX, ""),
        (r"\[12, 34, 56, 78\]", BOX, ""),  # escaped for Markdown
        ("<|ref|>the dog<|/ref|><|det|>[[12, 34, 56, 78]]<|/det|>", BOX, "xyxy-999"),  # DeepSeek-VL2
        ("It is <|begin_of_box|>[[12,34,56,78]]<|end_of_box|>.", BOX, "xyxy-1000"),  # GLM-4.1V
        ('```json\n[{"bbox_2d": [12, 34, 56, 78], "label": "dog"}]\n```', BOX, ""),  # Qwen2.5-VL
        ('[{"box_2d": [34, 12, 78, 56], "label": "dog"}]', BOX, "xyxy-1000"),  # Gemini
        ("<loc0034><loc0012><loc0078><loc0056> dog", BOX, "xyxy-1024"),  # PaliGemma
        ("dog<loc_12><loc_34><loc_56><loc_78>", (12.5, 34.5, 56.5, 78.5), "xyxy-1000"),  # Florence-2
        ("<bin_12><bin_34><bin_56><bin_78>", BOX, "xyxy-999"),  # OFA
        ("<p>dog</p> {<12><34><56><78>}", BOX, "xyxy-100"),  # MiniGPT-v2
        ("{<120><34><560><78>}", (120, 34, 560, 78), ""),  # not of 0-100 then
        ("x1: 12, y1: 34, x2: 56, y2: 78", BOX, ""),
        ("x1=12 y1=34 x2=56 y2=78", BOX, ""),
        ("ymin: 34, xmin: 12, ymax: 78, xmax: 56", BOX, ""),
        ('{"x_min": 12, "y_min": 34, "x_max": 56, "y_max": 78}', BOX, ""),  # Moondream
        ("left: 12, top: 34, right: 56, bottom: 78", BOX, ""),
        ("<x1>12</x1><y1>34</y1><x2>56</x2><y2>78</y2>", BOX, ""),
        ("x=12, y=34, width=44, height=44", BOX, ""),
        ("cx=34, cy=56, w=44, h=44", BOX, ""),
        ("12, 34, 56, 78", BOX, ""),
        ("The box is 12, 34, 56, 78.", BOX, ""),
        ("12 34 56 78", BOX, ""),
        ("[12%, 34%, 56%, 78%]", BOX, "xyxy-100"),
        ("[12, 34, 56, 78]%", BOX, "xyxy-100"),
        ("[12px, 34px, 56px, 78px]", BOX, "xyxy-pixel"),
        ("[0,1; 0,2; 0,35; 0,4]", (0.1, 0.2, 0.35, 0.4), ""),
        ("[0,1, 0,2, 0,35, 0,4]", (0.1, 0.2, 0.35, 0.4), ""),
        ("[1,024, 512, 1,536, 2,048]", (1024, 512, 1536, 2048), ""),
        ("[1,000, 512, 2,000, 1,024]", (1000, 512, 2000, 1024), ""),
        ("Top-left corner: (x=1, y=2)\nBottom-right corner: (x=3, y=4)", (1, 2, 3, 4), ""),
        ("[0, 12, 1,000, 1,000]", (0, 12, 1000, 1000), ""),
        ("[0,125, 0,25, 1,000, 0,875]", (0.125, 0.25, 1, 0.875), ""),
        ("［12，34，56，78］", BOX, ""),
        ("[−5, 10, 50, 60]", (-5, 10, 50, 60), ""),
        ("[ 12 ,\n 34 , 56 , 78 ]", BOX, ""),
        ("<think>It may be [1,2,3,4].</think>It is [12,34,56,78].", BOX, ""),
        ("At first sight [1,2,3,4]. Final answer: [12,34,56,78]", BOX, ""),
        (r"so \boxed{[12, 34, 56, 78]}", BOX, ""),
        (
            "So:\n\n| what | x_min | y_min | x_max | y_max |\n|:--|-|-|-|-|\n| cat | 12 | 34 | 56 | 78 |",
            BOX,
            "",
        ),
        ("| Corner | Value |\n|-|-|\n| x1 | 12% |\n| y1 | 34% |\n| x2 | 56% |\n| y2 | 78% |", BOX, "xyxy-100"),
        ("| left | top | width | height |\n|-|-|-|-|\n| 12 | 34 | 44 | 44 |", BOX, ""),
        (
            "|what|x1|y1|x2|y2|\n|-|-|-|-|-|\n|cat|1|2|3|4|\n|dog|12|34|56|78|\n\nThe dog: [12, 34, 56, 78]",
            BOX,
            "",
        ),
    ],
)
def test_a_box_is_read(text, box, frame):
    first = find_boxes(text)[0]
    assert (first.box, first.frame) == (pytest.approx(box), frame)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "in the top left",
        "[12,34,56]",
        "[12,34,56,78,90]",
        "1, 2, 3, 4, 5",
        "[12,34,56,7",  # cut off: nobody knows what the last number was
        "(12,34),(56,34),(56,78),(12,78)",
        "12,34,56,78]",
        "(12, 34)",
        "[1e99999,2,3,4]",
        "[12%, 34, 56, 78]",
        "| x1 | y1 | x2 | y2 |\n|-|-|-|-|\n| 12 | 34 | n/a | 78 |",
        "| dogs | cats | birds | fish |\n|-|-|-|-|\n| 12 | 34 | 56 | 78 |",
        "<loc0034><loc0012><loc0078>",
        "x1: 12, y1: 34",
        "<think>It may be [1,2,3,4].</think>There is none.",
        "There are 3 dogs, 2 cats and 4 birds.",
        '<point x="63.5" y="44.5" alt="dog">dog</point>',
        '<points x1="10.0" y1="20" x2="30" y2="40" alt="dogs">dogs</points>',
    ],
)
def test_what_is_no_box_is_not_read(text):
    assert find_boxes(text) == []


def test_points_are_known_for_points():
    assert has_point('<points x1="10.0" y1="20" x2="30" y2="40" alt="dogs">dogs</points>')  # Molmo
    assert has_point('[{"point_2d": [346, 328], "label": "dog"}]')
    assert not has_point("The point is [12,34,56,78].")


def test_several_boxes_are_read_in_order():
    text = "<ref>dogs</ref><box>[[1, 2, 30, 40], [50, 60, 70, 80]]</box>"
    assert [one.box for one in find_boxes(text)] == [(1, 2, 30, 40), (50, 60, 70, 80)]


def test_kosmos_2_patches_are_those_of_its_own_processor():
    """The values are those of the processor's documentation, and for one row or patch those of its code."""
    text = "<phrase>a snowman</phrase><object><patch_index_0044><patch_index_0863></object>"
    (found,) = find_boxes(text)
    assert (found.box, found.frame) == ((0.390625, 0.046875, 0.984375, 0.828125), "xyxy-1")
    assert patch_box(5, 911) == (0.171875, 0.015625, 0.484375, 0.890625)
    assert patch_box(0, 0) == (0, 0, 1 / 32, 1 / 32)
    assert patch_box(0, 31) == (0, 0, 1, 1 / 32)
    assert find_boxes("<patch_index_0044><patch_index_1063>") == [], "there are 1,024 patches"


def test_runaway_text_is_read_in_bounds():
    for part in ("[1,", "(1,2),", "1 ", "<loc0001>", "x1=", "top left ", "<box>"):
        assert len(find_boxes(part * 40_000)) < 1000
