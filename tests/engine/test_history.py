"""What a training keeps in memory of the figures that it writes."""

import json

from ohem_d2.engine import OHEMTrainer, base_trainer

from .test_resume import make_cfg  # noqa: F401 (make_cfg is a fixture)


def test_figures_of_the_past_are_written_and_not_kept(make_cfg, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(base_trainer, "_HISTORY", 3)
    seen = []

    class Noting(OHEMTrainer):
        def after_step(self):
            super().after_step()
            seen.append(self.storage.history("total_loss").latest())
            for writer in self._hooks[-1]._writers:
                writer.write()

    trainer = Noting(make_cfg("run", "SEED", "1"))
    trainer.train()
    histories = trainer.storage.histories()
    assert {len(history.values()) for history in histories.values()} <= {1, 2, 3}
    kept = trainer.storage.history("total_loss")
    assert kept.values() == [(loss, i) for i, loss in enumerate(seen)][-3:] and len(seen) == 7
    assert abs(kept.global_avg() - sum(seen) / 7) < 1e-9  # over all iterations
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "total_loss" in row] == list(range(7))


def test_figures_of_each_batch_are_kept_for_as_many_iterations(make_cfg, monkeypatch):  # noqa: F811
    """Figures of mining come with each batch, and warnings look back 100 iterations."""
    monkeypatch.setattr(base_trainer, "_HISTORY", 3)
    opts = ("SOLVER.ACCUMULATE", "4", "MODEL.ROI_HEADS.NAME", "OHEMROIHeads")
    trainer = OHEMTrainer(make_cfg("run", *opts))
    trainer.train()
    kept = trainer.storage.history("ohem/mean_loss").values()
    assert [iteration for _, iteration in kept] == [i for i in (4, 5, 6) for _ in range(4)]
