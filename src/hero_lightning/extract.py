"""Computes and stores features: `python -m hero_lightning.extract dataset=meld modalities=[text]`.

Data flow: dataset, or single clips -> samples -> decode in workers, encode on the device -> parts of the Store
(-> a foreign layout) -> availability.csv, failures.csv. A restart continues; several processes divide the parts.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero_lightning.config.cli import command

if TYPE_CHECKING:
    from hero_lightning.features import Modality
    from hero_lightning.types import Sample

log = logging.getLogger(__name__)


def extract(cfg: Any) -> None:
    """Fills the stores of all chosen modalities with a frozen encoder, and lists the clips that failed."""
    import torch

    from hero_lightning.config import build
    from hero_lightning.errors import ConfigError, one_of
    from hero_lightning.features.extraction import fill
    from hero_lightning.features.foreign.affectgpt import LAYOUTS, export

    one_of("layout", cfg.layout, ("store", *LAYOUTS))
    share, fabric = _share(cfg)
    foreign = cfg.layout != "store"
    if foreign and share[1] > 1 and fabric is None:
        raise ConfigError(
            "A part of an extraction cannot write a foreign layout.",
            expected="layout=store in parts",
            got=f"layout={cfg.layout} part={cfg.part}",
            where="layout",
            hint="extract in parts with layout=store, then once without part=: stored features are not computed again",
        )
    if (foreign or cfg.video) and not cfg.out:
        raise ConfigError("The output folder is not given.", expected="out=DIR", got="none", where="out")
    chosen = build.modalities(cfg)
    modalities = {name: modality for name, modality in chosen.items() if modality.storable}
    if left := [name for name in chosen if name not in modalities]:
        log.info("not extracted, since their features cannot be stored: %s", ", ".join(left))
    if not modalities:
        expected = "a frozen encoder and a deterministic sampler"
        raise ConfigError("No modality can be extracted.", expected=expected, got=list(chosen), where="modalities")
    dataset, root, samples = _chosen(cfg)
    device = "cuda" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    scratch = tempfile.TemporaryDirectory() if cfg.video and foreign else None
    with scratch or nullcontext(root) as features:
        for modality in modalities.values():
            modality.bind(Path(features), dataset)
        summary = fill(
            modalities, samples, batch_size=cfg.batch_size, device=fabric.device if fabric else device,
            workers=cfg.dataset.get("num_workers", 0), progress=share[0] == 0, dtype=cfg.dtype,
            part_size=cfg.part_size, retry=cfg.retry, force=cfg.force, share=share,
        )  # fmt: skip
        log.info("%s", summary)
        if fabric:
            fabric.barrier()
        if share[0] == 0 or fabric is None:
            _report(modalities, samples, build.run_folder())
            if foreign:
                written = export(modalities, samples, cfg.out, cfg.layout, dataset, cfg.force)
                log.info("%s: %d files written", cfg.out, written)


def _share(cfg: Any) -> tuple[tuple[int, int], Any]:
    """(k, n) of this process, from 0; and Lightning's Fabric where that starts the others."""
    from hero_lightning.errors import ConfigError

    if cfg.part is not None:
        k, _, n = str(cfg.part).partition("/")
        if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
            raise ConfigError("part is wrong.", expected="k/n, e.g. 1/4 to 4/4", got=cfg.part, where="part")
        return (int(k) - 1, int(n)), None
    if cfg.trainer.devices in (1, "1") and cfg.trainer.num_nodes == 1:
        return (0, 1), None
    from lightning_fabric import Fabric

    accelerator, devices = cfg.trainer.accelerator, cfg.trainer.devices
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=cfg.trainer.num_nodes, strategy="ddp")
    fabric.launch()
    return (fabric.global_rank, fabric.world_size), fabric


def _chosen(cfg: Any) -> tuple[str, Path, list[Sample]]:
    """Name of the dataset, root of its stores, and the samples that `splits`, `ids` and `video` select."""
    from hero_lightning.config import build
    from hero_lightning.datasets.clips import find_clips
    from hero_lightning.errors import DataError

    if cfg.video:
        dataset, root, samples = "video", Path(cfg.out), find_clips(cfg.video)
    else:
        datamodule = build.dataset(cfg)
        dataset, root = str(datamodule.name), Path(datamodule.features_root)
        samples = datamodule.limited()
    kept = [s for s in samples if cfg.splits is None or s.split in cfg.splits or cfg.video]
    if cfg.ids is not None:
        path = Path(cfg.ids) if isinstance(cfg.ids, str) else None
        if path is not None and not path.is_file():
            raise DataError("There is no such list.", expected="a file with one id per line", got=path, where="ids")
        listed = cfg.ids if path is None else path.read_text(encoding="utf-8-sig").splitlines()
        wanted = {name for entry in listed if (name := str(entry).strip())}
        if missing := sorted(wanted - {s.id for s in kept}):
            expected = f"ids of {dataset}, " + (f"e.g. {kept[0].id}" if kept else "of which the splits leave none")
            got = f"{len(missing)} others, e.g. {missing[0]}"
            raise DataError("ids names clips that the dataset does not have.", expected=expected, got=got, where="ids")
        kept = [s for s in kept if s.id in wanted]
    return dataset, root, kept


def _report(modalities: Mapping[str, Modality], samples: Sequence[Sample], folder: Path) -> None:
    """Writes availability.csv (stored clips by split and reason) and failures.csv (clips without, and errors)."""
    from hero_lightning.data.availability import AvailabilityCount, describe, tabulate
    from hero_lightning.features.files import write_csv

    found = {s.id: {name: modality.stored_availability(s) for name, modality in modalities.items()} for s in samples}
    table = tabulate(samples, found)
    for name, line in describe(table).items():
        log.info("%s: %s", name, line)
    write_csv(folder / "availability.csv", AvailabilityCount, table)
    stores = {name: modality.store for name, modality in modalities.items() if modality.store is not None}
    faults = [(s.id, name, fault) for s in samples for name, store in stores.items() if (fault := store.fault(s))]
    rows = ((id, name, fault["stage"], fault["error"]) for id, name, fault in faults)
    write_csv(folder / "failures.csv", ("id", "modality", "stage", "error"), rows)
    log.info("%d failures, see %s", len(faults), folder / "failures.csv")


main = command("extract")(extract)

if __name__ == "__main__":
    main()
