"""Write ``voice.csv``, the numbers of one synthetic utterance by name. Run it when `voice` gets another version.

usage: python tests/golden/voice.py
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from voices import say

from emobench.features import FEATURES

row = FEATURES["voice"]
with open(Path(__file__).with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["name", "value"])
    lines.writerows((name, f"{value:.6g}") for name, value in zip(row.names, row(say()), strict=True))
