"""Folders of finished runs that nobody trained, as the recipes leave them."""

from dhm_keras.run import FORMAT, _write


def config_of(recipe, arch, method, seed=0, **settings):
    """The config that a recipe writes: the paper's settings, `None` for what the method does not heed."""
    import protocols

    config = {name: value for name, (value, _) in protocols.settings_of(recipe, arch, settings.get("start")).items()}
    if config.get("augmentation") == "auto":
        config["augmentation"] = protocols.augmentation(arch, method)
    config |= {"test_examples": None, "backend": "tensorflow", "processes": 1, "scope": None, "p": None}
    if settings.get("sampling", "fixed") != "fixed":
        config |= {"scope": "mimic", "p": 0.5}
    if method not in ("dsl", "dhm"):
        config |= dict.fromkeys(("branches", "ce_weight"))
    if method != "dhm":
        config |= dict.fromkeys(("direction", "temperature", "mimic_weight"))
    return {"recipe": recipe, "arch": arch, "method": method, "seed": seed, **config, **settings}


def put(folder, config, **errors):
    """Writes a finished run: `main=30` is main's top-1 error in the best epoch; one more in the last, a quarter top-5.

    Of person re-identification it is mAP, and a quarter rank-1.
    """
    names = ("map", "rank1") if config.get("recipe") == "reid" else ("top1_error", "top5_error")
    folder.mkdir(parents=True)
    _write(folder / "config.json", {"format": FORMAT, **config})
    result = {
        when: {"epoch": epoch}
        | {f"{head}_{names[0]}": error + more for head, error in errors.items()}
        | {f"{head}_{names[1]}": (error + more) / 4 for head, error in errors.items()}
        for when, epoch, more in (("best", 7, 0), ("last", 9, 1))
    }
    if errors:
        _write(folder / "result.json", result, {})
    return folder
