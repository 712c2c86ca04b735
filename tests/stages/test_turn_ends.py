"""LLM bases whose end token is not what ends their template's turns: what is trained on them stops."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from vila2cli.engine import EngineSettings, Request, open_engine
from vila2cli.errors import ModelError
from vila2cli.image import decode_image
from vila2cli.model.build import build, resolve_base
from vila2cli.model.chat import IGNORE_INDEX, Chat
from vila2cli.model.saving import save_checkpoint
from vila2cli.settings import BaseSettings
from vila2cli.settings.recipe import Recipe, load_recipe
from vila2cli.shards import open_source, read_shard
from vila2cli.shards.sample import Turn
from vila2cli.stages.pretrain import pretrain
from vila2cli.stages.sft import sft
from vila2cli.world.write import write_world

LIMIT = 120
ENDLESS = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
ENGINES = [
    "hf",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.vllm,
            pytest.mark.filterwarnings("ignore"),
        ],
    ),
]


def llm_like_qwen_base(folder: Path, *, template: str | None = None, ends: object = None) -> Path:
    """The world's LLM with Qwen2.5-base's tokens: eos is <|endoftext|>, and turns end with <|im_end|>."""
    source = resolve_base("world:llm")
    llm, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})
    eos = tokenizer.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") != eos
    llm.config.eos_token_id = eos
    llm.generation_config.eos_token_id = ends or eos
    if template is not None:
        tokenizer.chat_template = template
    llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def recipe_of(root: Path, llm: Path) -> Recipe:
    data, path, few = (
        root / "data",
        root / "recipe.toml",
        "".join(f", num_{name} = 2" for name in ("interleaved", "text", "specialist", "dev", "eval")),
    )
    path.write_text(
        f"""
        name = "ends"
        runs_dir = "{root}/runs"
        base.llm = "{llm}"
        pretrain.align = {{ max_samples = 32, batch_size = 8, learning_rate = 2e-3 }}
        pretrain.main = {{ learning_rate = 1e-3, batch_size = 8, epochs = 3, cache_features = true }}
        sft = {{ learning_rate = 5e-4, batch_size = 8, epochs = 2 }}
        data.pretrain = "{data}/pretrain/*.tar"
        data.sft = "{data}/sft"
        world = {{ num_pretrain = 96, num_sft = 48{few} }}
        """
    )
    recipe = load_recipe(path)
    write_world(recipe, data)
    return recipe


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    root = tmp_path_factory.mktemp("ends")
    recipe = recipe_of(root, llm_like_qwen_base(root / "llm"))
    pretrain(recipe, shards=None, out=root / "pretrain", round=0)
    sft(recipe, model=str(root / "pretrain"), shards=None, out=root / "sft", round=0)
    return recipe, root / "sft"


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_stop_where_the_templates_turns_end(engine: str, tuned: tuple[Recipe, Path]) -> None:
    recipe, folder = tuned
    (shard, *_) = open_source(recipe.data.pretrain).shards
    samples = [sample for sample, _ in zip(read_shard(shard, on_reject=print), range(40), strict=False)]
    requests = [
        Request(
            id=sample.key,
            messages=(Turn("user", "Describe the image in details."),),
            images=(decode_image(sample.images[0].data),),
            max_new_tokens=LIMIT,
        )
        for sample in samples
    ]
    results = list(
        open_engine(engine, folder, EngineSettings(dtype="float32", batch_size=20)).generate(requests)
    )
    assert len(results) == len(requests) > 20
    assert [result.error for result in results if result.error] == []
    stopped = [result for result in results if result.finish_reason == "stop"]
    assert len(stopped) == len(results)
    assert all("<|" not in result.text for result in results)


def test_the_checkpoint_names_both_end_tokens(tuned: tuple[Recipe, Path]) -> None:
    _, folder = tuned
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own, turn_end = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")
    for stage in (folder, folder.with_name("pretrain")):
        stated = json.loads((stage / "generation_config.json").read_text())["eos_token_id"]
        assert sorted(stated) == sorted([own, turn_end])


def test_what_is_trained_ends_with_the_turns_end(tuned: tuple[Recipe, Path]) -> None:
    chat = Chat(AutoTokenizer.from_pretrained(tuned[1]))
    turns = [
        Turn("user", "Describe."),
        Turn("assistant", "red"),
        Turn("user", "More."),
        Turn("assistant", "blue"),
    ]
    ids, labels = chat.train_ids(turns, [])
    trained = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX]
    assert chat.tokenizer.decode(trained) == "red<|im_end|>blue<|im_end|>"


def test_an_llms_own_list_of_end_tokens_is_kept(tmp_path: Path) -> None:
    llm = llm_like_qwen_base(tmp_path / "llm", ends=[1005, 7])
    model, processor = build(BaseSettings(llm=str(llm)), seed=0)
    assert model.generation_config.eos_token_id[:2] == [1005, 7]
    save_checkpoint(model, processor, tmp_path / "saved")
    tokenizer = processor.tokenizer
    stated = json.loads((tmp_path / "saved" / "generation_config.json").read_text())["eos_token_id"]
    assert set(stated) == {1005, 7, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_a_template_that_ends_no_turn_gets_the_tokenizers_end_token(tmp_path: Path) -> None:
    llm = llm_like_qwen_base(tmp_path / "llm", template=ENDLESS)
    _, processor = build(BaseSettings(llm=str(llm)), seed=0)
    chat = Chat(processor)
    turns = [
        Turn("user", "Describe."),
        Turn("assistant", "red "),
        Turn("user", "More."),
        Turn("assistant", "blue"),
    ]
    ids, labels = chat.train_ids(turns, [])
    trained = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX]
    assert chat.tokenizer.decode(trained) == "red<|endoftext|>blue<|endoftext|>"
    prompt = chat.tokenizer.decode(chat.prompt_ids(turns[:3], []))
    messages = chat.rendering.messages(turns[:3], 0)
    own = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == own
    scored, num_text = chat.scored_ids(turns[:3], [], "blue")
    assert chat.tokenizer.decode(scored) == f"{own}blue"
    assert chat.tokenizer.decode(scored[-num_text:]) == "blue"


def test_nothing_that_ends_an_answer_is_refused(tmp_path: Path) -> None:
    llm = llm_like_qwen_base(tmp_path / "llm", template=ENDLESS)
    config = json.loads((llm / "tokenizer_config.json").read_text())
    config["eos_token"] = None
    (llm / "tokenizer_config.json").write_text(json.dumps(config))
    _, processor = build(BaseSettings(llm=str(llm)), seed=0)
    with pytest.raises(ModelError, match="would never stop"):
        Chat(processor).train_ids([Turn("user", "a"), Turn("assistant", "b")], [])


def test_a_generation_config_that_contradicts_itself_is_no_obstacle(tmp_path: Path) -> None:
    model, processor = build(BaseSettings(), seed=0)
    model.generation_config.temperature, model.generation_config.do_sample = 0.5, False
    save_checkpoint(model, processor, tmp_path)
    stated = json.loads((tmp_path / "generation_config.json").read_text())
    assert stated["eos_token_id"] == processor.tokenizer.eos_token_id
    assert "temperature" not in stated
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert list(file.keys())
