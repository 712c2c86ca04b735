"""Stages as sbatch scripts: what they ask for, that Slurm takes them, and what their shell does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_until

from vila2cli.errors import RecipeError
from vila2cli.run.slurm.emit import num_workers, script, submission
from vila2cli.run.stages import plan_stages
from vila2cli.settings.recipe import load_recipe

REPO = Path(__file__).parents[2]
EXAMPLES = REPO / "recipes" / "slurm"
SHOWN = ("round1-recaption", "round1-pretrain", "round1-eval")
ASKED = ["slurm.array=3", "slurm.time=10", "slurm.stages.pretrain={nodes = 2, cpus = 2}"]


def text_of(name: str, *sets: str, recipe: Path | None = None, flags: tuple[str, ...] = ()) -> str:
    settings = load_recipe(recipe, sets)
    stage = next(stage for stage in plan_stages(settings, "round1") if stage.name == name)
    return script(stage, settings.slurm, run_dir=settings.run_dir, flags=flags)


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


@pytest.mark.parametrize("name", SHOWN)
def test_the_examples_are_what_is_emitted(name: str) -> None:
    recipe = Path("recipes/vila2-8b.toml")
    text = text_of(name, recipe=REPO / recipe, flags=("--recipe", str(recipe)))
    assert (EXAMPLES / f"{name}.sbatch").read_text() == text, "run python tests/slurm/test_emit.py"


def test_a_training_on_several_nodes_is_torchrun_on_each() -> None:
    text = text_of("round0-pretrain", "slurm.nodes=4", "slurm.gpus=8", "slurm.cpus=6")
    assert {"--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=48"} <= set(
        directives(text)
    )
    assert "torchrun --nnodes=4 --nproc-per-node=8" in text
    assert "srun --ntasks=4" in text
    alone = text_of("round0-pretrain")
    assert "torchrun" not in alone
    assert 'srun --ntasks=1 --cpus-per-task="$cpus" --export=ALL vila2 pretrain --round 0' in alone


def test_a_training_has_a_cpu_for_each_process_at_least() -> None:
    text = text_of("round0-pretrain", "slurm.nodes=2", "slurm.gpus=8")
    assert "--ntasks-per-node=8" in directives(text)
    assert "srun --ntasks=2 --ntasks-per-node=1 " in text
    assert not any(line.startswith("--cpus-per-task") for line in directives(text))


def test_only_training_takes_several_nodes() -> None:
    sets = ("slurm.nodes=4", "slurm.gpus=8", "slurm.array=5")
    recaption = text_of("round1-recaption", *sets)
    assert {"--nodes=1", "--ntasks-per-node=8", "--array=0-4"} <= set(directives(recaption))
    assert "* 8 + SLURM_PROCID))/40" in recaption
    asked = text_of("round1-eval", *sets)
    assert {"--nodes=1", "--gpus-per-node=1", "--array=0-4"} <= set(directives(asked))
    assert '--worker "$SLURM_ARRAY_TASK_ID/5"' in asked
    assert "--gpus-per-node=2" in directives(text_of("round1-eval", *sets, "slurm.stages.eval.gpus=2"))


def test_a_stages_own_table_is_on_top() -> None:
    sets = ("slurm.time=1:00:00", "slurm.options={nice = 5}", "slurm.stages.sft={time = '2:00:00'}")
    assert {"--time=2:00:00", "--nice=5"} <= set(directives(text_of("round0-sft", *sets)))
    assert "--time=1:00:00" in directives(text_of("round0-eval", *sets))


@pytest.mark.parametrize(
    "text",
    ["slurm.acount=x", "slurm.stages.recaption.tme=1", "slurm.stages.train.time=1", "slurm.options.-x=1"],
)
def test_unknown_settings_are_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(None, [text])


def test_the_nearest_setting_of_a_stage_is_named() -> None:
    with pytest.raises(RecipeError, match=r"did you mean slurm\.stages\.recaption\.time\?"):
        load_recipe(None, ["slurm.stages.recaption.tme=1"])


def test_a_value_cannot_bring_lines_of_its_own() -> None:
    for key in ("partition", "setup", "modules", "container"):
        with pytest.raises(RecipeError, match="should be one line without control characters"):
            load_recipe(None, [f'slurm.{key}="a\\n#SBATCH --uid=0"'])


def test_neither_does_the_folder_of_runs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="should be one line without control characters"):
        load_recipe(None, ['runs_dir="a\\n#SBATCH --uid=0"'])
    logs = next(line for line in directives(text_of("round0-sft", "runs_dir=50%j")) if "--output" in line)
    assert logs == "--output=50%%j/run/slurm/logs/round0-sft-%j.log"


def test_odd_values_stay_one_word(tmp_path: Path) -> None:
    odd = 'a\'b $(touch owned) "c" # d'
    text = text_of("round0-sft", flags=("--recipe", odd))
    srun = 'srun --ntasks=1 --cpus-per-task="$cpus" --export=ALL vila2'
    echo = text.replace(srun, "printf '%s\\n'").replace("scontrol", "true")
    assert echo != text
    ran = subprocess.run(["bash", "-c", echo], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert odd in ran.stdout.splitlines()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["recipes/world.toml", "recipes/vila2-8b.toml"])
def test_every_script_is_a_shell_script(tmp_path: Path, name: str) -> None:
    sets = ["slurm.modules=cuda/12", "slurm.setup=source venv/bin/activate", "slurm.container=a b.sqsh", *ASKED]
    recipe = load_recipe(REPO / name, sets)
    stages = plan_stages(recipe, "specialists")
    texts = [script(stage, recipe.slurm, run_dir=recipe.run_dir) for stage in stages]
    texts.append(submission([(stage, Path(stage.name)) for stage in stages], run_dir=recipe.run_dir))
    for text in texts:
        checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, (checked.stderr, text)


@pytest.mark.slurm
def test_slurm_takes_every_script(cluster: Cluster, tmp_path: Path) -> None:
    recipe = load_recipe(REPO / "recipes" / "world.toml", ASKED)
    for stage in plan_stages(recipe, "specialists"):
        path = tmp_path / f"{stage.name}.sbatch"
        path.write_text(script(stage, recipe.slurm, run_dir=recipe.run_dir))
        cluster.run(["sbatch", "--test-only", str(path)])
    path.write_text(path.read_text().replace("--nodes=1", "--nodes=3"))
    with pytest.raises(AssertionError, match="Requested node configuration is not available"):
        cluster.run(["sbatch", "--test-only", str(path)])


@pytest.mark.slurm
def test_odd_values_reach_slurm_as_they_are(cluster: Cluster, tmp_path: Path) -> None:
    recipe = load_recipe(None, [f"runs_dir={tmp_path}", 'slurm.options={comment = "it\'s 1 # of \\"2\\""}'])
    stage = plan_stages(recipe, "round0")[0]
    path = tmp_path / "job"
    path.write_text(script(stage, recipe.slurm, run_dir=recipe.run_dir))
    job = cluster.run(["sbatch", "--parsable", "--hold", str(path)])
    assert 'Comment=it\'s 1 # of "2" \n'[:-2] in cluster.run(["scontrol", "show", "job", job])
    cluster.run(["scancel", job])


NAKED = {"SBATCH_EXPORT": "NONE", "SRUN_CPUS_PER_TASK": "1", "SLURM_ARRAY_TASK_ID": "7"}
"""What a user's own environment may hold, of which a step must not depend."""
SHOW = """\
echo "$* cpus $SLURM_CPUS_PER_TASK array ${SLURM_ARRAY_TASK_ID:-none} of $MINE" >>shown
"""


def run_naked(cluster: Cluster, folder: Path, stage: str, *sets: str, gpus: str = "") -> list[str]:
    """What the processes of a stage say of themselves, submitted from such an environment.

    This host has no GPUs to ask for: `gpus` is what is asked for in their place.
    """
    (folder / "show.sh").write_text(SHOW)
    own = [f"runs_dir={folder}", f"slurm.program=bash {folder}/show.sh", "slurm.setup=export MINE=me"]
    recipe = load_recipe(None, [*own, *sets])
    (recipe.run_dir / "slurm" / "logs").mkdir(parents=True)
    path = folder / "job"
    (one,) = (one for one in plan_stages(recipe, "round1") if one.name == stage)
    text = script(one, recipe.slurm, run_dir=recipe.run_dir)
    path.write_text(re.sub(r"--gpus-per-node=\d+", gpus, text).replace(" --gpus-per-task=1", ""))
    words = ["env", *(f"{name}={value}" for name, value in NAKED.items())]
    job = cluster.run([*words, "sbatch", "--parsable", f"--chdir={folder}", str(path)])

    def states() -> set[str]:
        return {state for name, state in cluster.states().items() if name.partition("_")[0] == job}

    wait_until(lambda: states() <= {"COMPLETED", "FAILED"}, "end of the job", timeout_s=180)
    logs = [log.read_text() for log in (recipe.run_dir / "slurm" / "logs").glob("*.log")]
    assert states() == {"COMPLETED"}, logs
    return sorted((folder / "shown").read_text().splitlines())


@pytest.mark.slurm
def test_steps_depend_on_no_environment(cluster: Cluster, tmp_path: Path) -> None:
    assert run_naked(cluster, tmp_path, "round0-sft", "slurm.cpus=3") == [
        "sft --round 0 cpus 3 array none of me"
    ]


@pytest.mark.slurm
def test_workers_depend_on_no_environment(cluster: Cluster, tmp_path: Path) -> None:
    shown = run_naked(cluster, tmp_path, "round1-recaption", "slurm.array=2")
    assert shown == [f"recaption --round 1 --worker {i}/2 cpus 1 array {i} of me" for i in (0, 1)]


@pytest.mark.slurm
def test_workers_of_one_task_share_its_cpus(cluster: Cluster, tmp_path: Path) -> None:
    shown = run_naked(cluster, tmp_path, "round1-recaption", "slurm.gpus=2", gpus="--cpus-per-task=2")
    assert shown == [f"recaption --round 1 --worker {i}/2 cpus 2 array none of me" for i in (0, 1)]


@pytest.mark.slow
@pytest.mark.slurm
def test_processes_of_torchrun_depend_on_no_environment(cluster: Cluster, tmp_path: Path) -> None:
    torchrun = f"slurm.torchrun={sys.executable} -m torch.distributed.run"
    shown = run_naked(cluster, tmp_path, "round0-sft", "slurm.gpus=2", torchrun, gpus="--comment=x")
    assert shown == ["sft --round 0 cpus 2 array none of me"] * 2


PROBE = """\
echo "rank $RANK of $WORLD_SIZE, restart ${SLURM_RESTART_COUNT:-0}" >>ranks
[ -z "$SLURM_RESTART_COUNT" ] && exit 75
exit 0
"""


@pytest.mark.slow
@pytest.mark.slurm
def test_what_a_rank_says_of_requeueing_gets_past_torchrun(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "probe.sh").write_text(PROBE)
    sets = [f"runs_dir={tmp_path}", "slurm.nodes=2", f"slurm.program=bash {tmp_path}/probe.sh"]
    sets.append(f"slurm.torchrun={sys.executable} -m torch.distributed.run")
    recipe = load_recipe(None, sets)
    (recipe.run_dir / "slurm" / "logs").mkdir(parents=True)
    path = tmp_path / "job"
    path.write_text(script(plan_stages(recipe, "round0")[0], recipe.slurm, run_dir=recipe.run_dir))
    job = cluster.run(["sbatch", "--parsable", f"--chdir={tmp_path}", str(path)])
    wait_until(lambda: cluster.states()[job] in ("COMPLETED", "FAILED"), "end of the job", timeout_s=180)
    logs = [log.read_text() for log in (recipe.run_dir / "slurm" / "logs").glob("*.log")]
    assert cluster.states()[job] == "COMPLETED", logs
    ran = (tmp_path / "ranks").read_text().splitlines()
    assert {f"rank {rank} of 2, restart 1" for rank in (0, 1)} <= set(ran)
    assert cluster.field(job, "Restarts") == "1"


def test_workers_are_counted_over_the_array() -> None:
    settings = load_recipe(None, ["slurm.array=3", "slurm.gpus=2"])
    counts = {stage.kind: num_workers(stage, settings.slurm) for stage in plan_stages(settings, "round1")}
    assert counts == {"pretrain": 1, "sft": 1, "eval": 3, "recaption": 6, "judge": 3}


if __name__ == "__main__":
    EXAMPLES.mkdir(exist_ok=True)
    for shown in SHOWN:
        path = Path("recipes/vila2-8b.toml")
        text = text_of(shown, recipe=REPO / path, flags=("--recipe", str(path)))
        (EXAMPLES / f"{shown}.sbatch").write_text(text)
