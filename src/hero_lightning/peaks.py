"""Finds the most expressive moments of every clip: `python -m hero_lightning.peaks dataset=mer2023`.

Data flow: dataset -> samples -> PeakFinder in workers -> features_root/<dataset>/au_info/<id>.json, which the
emotion_peak sampler reads. A restart continues; failures are listed in ledger.csv of the run folder.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero_lightning.config.cli import command
from hero_lightning.errors import DataError, cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hero_lightning.media.peaks import PeakFinder
    from hero_lightning.types import Sample

log = logging.getLogger(__name__)


def peaks(cfg: Any) -> Counter[str]:
    """Finds and writes peaks; returns the number of clips by method."""
    from hero_lightning.config import build, instantiate
    from hero_lightning.features.files import write_csv
    from hero_lightning.media.action_units import PEAKS
    from hero_lightning.media.peaks import PeakFinder
    from hero_lightning.types import file_name

    datamodule = build.dataset(cfg)
    node = cfg.modality.face.get("detector") or {}
    faces = {"faces": instantiate.make(node, "modality.face.detector")} if "_target_" in node else {}
    finder = PeakFinder(method=cfg.method, height=cfg.height, distance=cfg.distance, fps=cfg.fps, **faces)
    finder.faces.check()
    folder = Path(datamodule.features_root) / file_name(str(datamodule.name)) / PEAKS
    samples = [s for s in datamodule.limited() if cfg.splits is None or s.split in cfg.splits]
    counts, failures = write_peaks(finder, samples, folder, cfg.dataset.get("num_workers", 0), cfg.force)
    ledger = build.run_folder() / "ledger.csv"
    write_csv(ledger, ("id", "stage", "error"), failures)
    log.info("%s: %s", folder, ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "no clip")
    if failures:
        log.warning("%d clips failed, see %s", len(failures), ledger)
    return counts


def write_peaks(
    finder: PeakFinder, samples: Sequence[Sample], folder: Path, workers: int = 0, force: bool = False
) -> tuple[Counter[str], list[tuple[str, str, str]]]:
    """Writes <id>.json of every clip, each under a temporary name first.

    Args:
        finder: finds the peaks of a clip.
        samples: clips; those with a peak file of their own are skipped.
        folder: where the files are written.
        workers: processes; 0 = this one.
        force: also clips whose file was made from the same inputs.

    Returns:
        Clips per method, and how many were kept or own; failures (id, stage, error).
    """
    from rich.console import Console
    from rich.progress import track
    from torch.utils.data import DataLoader

    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    failures: list[tuple[str, str, str]] = []
    clips: Any = _Clips(finder, samples, folder, force)
    loader: DataLoader = DataLoader(clips, batch_size=None, num_workers=workers)
    for id, outcome, error in track(loader, "peaks", len(samples), console=Console(stderr=True)):
        counts[outcome] += 1
        if error:
            failures.append((id, "peaks", error))
    return counts, failures


class _Clips:
    """Dataset of a DataLoader whose items are (id, outcome, error); reading an item writes the clip's file."""

    def __init__(self, finder: PeakFinder, samples: Sequence[Sample], folder: Path, force: bool) -> None:
        self.finder, self.samples, self.folder, self.force = finder, list(samples), folder, force

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, str, str]:
        from hero_lightning.features.files import write_atomic
        from hero_lightning.media.action_units import au_info_file

        sample = self.samples[index]
        path = au_info_file(sample, self.folder)
        assert path is not None
        if "au_info" in sample.files:
            if path.is_file():
                return sample.id, "own", ""
            path = self.folder / path.name
        try:
            if not self.force and _stored(path) == self.finder.inputs(sample):
                return sample.id, "kept", ""
            found = self.finder.find(sample)
            write_atomic(path, (json.dumps(found, indent=1) + "\n").encode())
        except DataError as error:
            return sample.id, "failed", f"{error.problem} {error.details['where'] or ''}".strip()
        except (OSError, ValueError, RuntimeError) as error:  # of readers and detectors; the other clips continue
            return sample.id, "failed", cause(error)
        return sample.id, found["method"], ""


def _stored(path: Path) -> Any:
    """Inputs that a peak file was made from; None where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


main = command("peaks")(peaks)

if __name__ == "__main__":
    main()
