"""What a finished run leaves, and with which options it can be resumed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from cxrseg.trainer.fit.checkpoint import load
from helpers.outcomes import Call, refused


class TestFinishedRun:
    def test_folder_holds_the_result(self, base_run: Path) -> None:
        loaded = load(base_run / "model.ckpt")
        assert (base_run / "model.ckpt").read_bytes() == (base_run / "stage1.ckpt").read_bytes()
        description = loaded.description
        assert (description.stage, description.method) == (1, "full")
        assert description.quantization is None and description.adapters is None
        assert description.data == {
            "xrays/fields/test": 4,
            "xrays/fields/train": 48,
            "xrays/fields/val": 8,
        }
        assert set(description.metrics) == {"val_dice", "val_iou", "val_dice/xrays"}

    def test_stages_report_what_they_took(self, base_run: Path, fine_run: Path) -> None:
        report = json.loads((base_run / "stage1.json").read_text())
        assert report["images"] == 3 * 480 and report["seconds"] > 0
        assert report["metrics"] == load(base_run / "model.ckpt").description.metrics
        first, second = (
            json.loads((fine_run / f"stage{number}.json").read_text()) for number in (1, 2)
        )
        assert first["trainable"] > second["trainable"] > 0
        assert first["images"] == second["images"] == 2 * 160

    def test_it_has_learned(self, base_run: Path) -> None:
        assert load(base_run / "model.ckpt").description.metrics["val_dice"] > 0.85

    def test_ranks_are_logged(self, fine_run: Path) -> None:
        with (fine_run / "stage1/metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["rank/total"]]
        totals = [int(float(row["rank/total"])) for row in rows]
        assert len(totals) > 2 and totals == sorted(totals, reverse=True)
        final = load(fine_run / "stage1.ckpt").description.ranks
        assert totals[-1] == sum(final.values())
        for name, rank in final.items():
            logged = rows[-1][f"rank/{name.removeprefix('image_encoder.')}"]
            assert int(float(logged)) == rank

    def test_both_stages(self, fine_run: Path) -> None:
        first, second = (load(fine_run / f"stage{i}.ckpt").description for i in (1, 2))
        assert (first.stage, second.stage) == (1, 2)
        assert first.quantization is None and second.quantization is not None
        assert first.adapters == second.adapters is not None
        assert first.ranks == {k.replace(".layer", ""): v for k, v in second.ranks.items()}
        assert sum(first.ranks.values()) == 8 * 12
        assert second.metrics["val_dice"] > first.metrics["val_dice"] - 0.05

    def test_used_folder_is_refused(
        self, call_here: Call, phantom_data: Path, base_run: Path
    ) -> None:
        before = (base_run / "run.json").read_bytes()
        done = call_here("train", phantom_data, "-o", base_run, "--method", "full")
        refused(done, 1, "holds a run already", "--resume")
        assert (base_run / "run.json").read_bytes() == before

    def test_no_network_to_start_from_is_replaced(
        self, call_here: Call, phantom_data: Path, base_run: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "stage1.ckpt"
        shutil.copyfile(base_run / "model.ckpt", path)
        run = ("train", phantom_data, "-o", tmp_path, "--stage", "1", "--method", "full")
        for option in ("--checkpoint", "--soup", "--teacher"):
            more = () if option == "--checkpoint" else ("--checkpoint", base_run / "model.ckpt")
            refused(call_here(*run, *more, option, path), 1, "would replace an input", "-o")
        assert path.read_bytes() == (base_run / "model.ckpt").read_bytes()
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("options", "key"),
        [
            (("--image-size", "64"), "recipe.image_size"),
            (("--method", "adalora"), "recipe.method"),
            (("--stage", "all"), "stages"),
            (("--checkpoint", "other.ckpt"), "checkpoint"),
        ],
    )
    def test_resume_with_other_options_is_refused(
        self,
        options: tuple[str, ...],
        key: str,
        call_here: Call,
        phantom_data: Path,
        base_run: Path,
    ) -> None:
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        done = call_here("train", phantom_data, "-o", base_run, "--resume", *same, *options)
        refused(done, 1, f"the run has another {key}", "same options")

    def test_runs_of_before_a_setting_can_be_resumed(
        self, call_here: Call, phantom_data: Path, base_run: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(base_run, run)
        settings = json.loads((run / "run.json").read_text())
        del settings["checkpoint_sha256"], settings["recipe"]["stage1"]["skip_mislabeled"]
        (run / "run.json").write_text(json.dumps(settings))
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        assert call_here("train", phantom_data, "-o", run, "--resume", *same).code == 0
        settings["recipe"]["data"]["where"] = {"ward": ["7"]}
        (run / "run.json").write_text(json.dumps(settings))
        done = call_here("train", phantom_data, "-o", run, "--resume", *same)
        refused(done, 1, "another recipe.data.where")

    def test_resume_from_another_checkpoint_of_the_same_name_is_refused(
        self, call_here: Call, phantom_data: Path, fine_run: Path, base_run: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(fine_run, run)
        other = tmp_path / "model.ckpt"
        other.write_bytes((base_run / "model.ckpt").read_bytes() + b"more")
        recipe = ("--recipe", fine_run.parent / "recipe.yaml")
        same = ("train", phantom_data, "-o", run, "--resume", *recipe, "--checkpoint")
        done = call_here(*same, base_run / "model.ckpt")
        assert done.code == 0, done.err
        refused(call_here(*same, other), 1, "another checkpoint_sha256")

    def test_resume_on_other_devices_is_refused(
        self, call_here: Call, phantom_data: Path, base_run: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(base_run, run)
        for name in ("model.ckpt", "stage1.ckpt"):
            (run / name).unlink()
        saved = torch.load(run / "stage1/last.ckpt", weights_only=True)
        torch.save({**saved, "world_size": 2}, run / "stage1/last.ckpt")
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        done = call_here("train", phantom_data, "-o", run, "--resume", *same)
        refused(done, 1, "was trained on 2 devices", "devices: 2")

    def test_resuming_a_finished_run_changes_nothing(
        self, call_here: Call, phantom_data: Path, base_run: Path
    ) -> None:
        before = (base_run / "model.ckpt").read_bytes()
        same = ("--recipe", base_run.parent / "recipe.yaml", "--method", "full", "--stage", "1")
        done = call_here("train", phantom_data, "-o", base_run, "--resume", *same)
        assert done.code == 0, done.err
        assert (base_run / "model.ckpt").read_bytes() == before
