"""What sbatch is given beside the script, and when a script of before is refused."""

from pathlib import Path

import pytest

from vila2cli.cli.app import main
from vila2cli.errors import RecipeError
from vila2cli.run.slurm.queue import to_environ
from vila2cli.run.slurm.submit import submit, write_scripts
from vila2cli.run.stages import plan_stages
from vila2cli.settings.recipe import load_recipe


def test_what_a_script_says_counts_over_the_environment() -> None:
    script = "#SBATCH --partition=gpu\n#SBATCH --requeue\n#SBATCH --array=0-3\necho '#SBATCH --qos=low'\n"
    environ = {
        "SBATCH_PARTITION": "cpu",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_ARRAY_INX": "0-999",
        "SBATCH_ACCOUNT": "mine",
        "SBATCH_QOS": "high",
        "PATH": "/bin",
    }
    assert to_environ(script, environ) == {"SBATCH_ACCOUNT": "mine", "SBATCH_QOS": "high", "PATH": "/bin"}


def test_a_job_is_not_the_one_it_is_submitted_from() -> None:
    environ = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_PROCID": "1", "SLURM_CONF": "/etc/slurm.conf"}
    assert to_environ("", environ) == {"SLURM_CONF": "/etc/slurm.conf"}


def test_a_script_that_splits_the_work_in_another_way_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing is submitted from here
    before = load_recipe(None, [f"runs_dir={tmp_path}", "slurm.array=2"])
    now = load_recipe(None, [f"runs_dir={tmp_path}", "slurm.array=3"])
    (eval_stage,) = (stage for stage in plan_stages(before, "round0") if stage.kind == "eval")
    folder = before.run_dir / "slurm"
    write_scripts([eval_stage], before.slurm, run_dir=before.run_dir, flags=())
    with pytest.raises(RecipeError, match="among 2 workers"):
        list(submit([eval_stage], now.slurm, folder))
    with pytest.raises(RecipeError, match="sbatch is not on PATH"):
        list(submit([eval_stage], before.slurm, folder))


def test_the_line_to_paste_keeps_an_odd_folder_one_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["slurm", "emit", "round0", "--out", "jobs $(touch owned)"]) == 0
    assert "bash 'jobs $(touch owned)/submit.sh'" in capsys.readouterr().out
