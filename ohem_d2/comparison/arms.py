"""Several configs ("arms"), each with several seeds: trained, and tested in several ways."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .runs import run_once, write_json


def run_arms(
    arms: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    jobs: int = 1,
    opts: Sequence[str] = (),
    tests: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Train, and test by `tests` (name -> overrides), what is not done yet; write results.json or tests.json.

    Returns:
        one dict per run: arm, seed, command, environment and figures; those of `tests`, where there are any.

    Raises:
        RuntimeError: a run that failed; names its log.
        ValueError: two arms of one name, or an arm that is no YAML config.
    """
    names = [Path(arm).stem for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError(f"two arms have the same name: {', '.join(names)}")
    for arm in arms:
        if arm.endswith(".py"):
            raise ValueError(f"{arm} is a Python config; arms are YAML configs")
    pairs = [(arm, seed) for seed in seeds for arm in arms]  # so that arms take turns
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(lambda pair: _train(*pair, output, opts), pairs))
        if tests:
            runs = list(
                pool.map(lambda x: _test(*x[0], output, opts, x[1], tests[x[1]]), product(pairs, tests))
            )
    order = [*names, *(f"{arm} {test}" for arm in names for test in tests)]
    runs.sort(key=lambda run: (order.index(run["arm"]), run["seed"]))
    write_json(output / ("tests.json" if tests else "results.json"), runs)
    return runs


def _train(arm: str, seed: int, output: Path, opts: Sequence[str]) -> dict[str, Any]:
    name = f"{Path(arm).stem}/seed{seed}"
    return {"folder": name, **run_once(arm, seed, output / name, opts)}


def _test(
    arm: str, seed: int, output: Path, opts: Sequence[str], test: str, overrides: Sequence[str]
) -> dict[str, Any]:
    trained = f"{Path(arm).stem}/seed{seed}"
    name, weights = f"{trained}/{test}", str(output / trained / "model_final.pth")
    run = run_once(arm, seed, output / name, [*opts, *overrides, "MODEL.WEIGHTS", weights], eval_only=True)
    return {"folder": name, **run, "arm": f"{run['arm']} {test}", "test": test}
