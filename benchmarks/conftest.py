"""Under pytest-benchmark's tables, what they are for: how many times faster, and what was promised."""

HOW = {
    "ratio": lambda slow, fast: f"{slow / fast:.1f} times as fast as by hand",
    "share": lambda whole, part: f"a prediction takes {whole / part:.2f} times what decoding and features take",
    "process": lambda base, whole: f"{whole:.2f} s, {whole / base:.2f} times what the other process takes",
    "real time": lambda duration_s, taken_s: f"{duration_s / taken_s:.0f} times as fast as real time",
}


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    rows = [row for row in session.benchmarks if "how" in row.extra_info] if session else []
    if rows:
        terminalreporter.section("what it comes to")
    for row in rows:
        about = row.extra_info
        promise = f" (promised: {about['promised']})" if about.get("promised") else ""
        terminalreporter.write_line(f"{row.group}: {HOW[about['how']](about['base_s'], row.stats.median)}{promise}")
