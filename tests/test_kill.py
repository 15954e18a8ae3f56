"""A run that is killed again and again ends in the bytes of one left in peace (the script shows it at length)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kill_and_continue.py"


@pytest.mark.slow
def test_killed_run_ends_in_the_same_bytes(tiny_corpus, tmp_path):
    config = {
        "corpora": [{"name": "manifest", "path": str(tiny_corpus / "manifest.csv")}],
        "models": ["svm", {"name": "xgboost", "params": {"n_estimators": 100}}],
        "protocols": [{"name": "group-kfold", "n_splits": 4}],
        "tuning": {"n_trials": 6, "inner_splits": 3},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [sys.executable, str(SCRIPT), str(tmp_path / "c.yaml"), "--kills", "6", "--keep", str(tmp_path / "runs")]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "killed 6 times" in shown.stdout
    assert "DIFFERENT" not in shown.stdout
