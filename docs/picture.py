"""Draw docs/leaderboard.svg, the picture of the README, from the committed runs: ``make picture``."""

import sys
from pathlib import Path

import pandas as pd

from emobench.reports.figures import overview
from emobench.results.run import load_results

ROOT = Path(__file__).resolve().parents[1]
TITLES = ("On speakers never heard before", "The leakage premium: with shared speakers")


def draw() -> str:
    """Return the picture as SVG."""
    runs = ROOT / "results" / "ravdess"
    [full], [five] = runs.glob("all-*"), runs.glob("ravdess-5-*")
    found = load_results(full)
    premium = pd.read_csv(five / "premium.csv")
    premium = premium[
        (premium["features"] == "mfcc40") & (premium["protocol"] == "group-kfold") & (premium["entry"] != "dummy")
    ]
    n_classes = len(found.run["corpora"]["ravdess"]["classes"])
    return overview(found.leaderboard, premium, chance=1 / n_classes, titles=TITLES)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "leaderboard.svg"
    path.write_text(draw() + "\n")
