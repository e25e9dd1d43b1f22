"""Renew docs/images from a finished search: the Pareto plot, the report, MLflow's UI.

    python scripts/bench/pictures.py out/demo-20260101-120000

Needs Chromium, its driver and selenium; scripts/pictures brings selenium.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

import autoquant as aq
from autoquant.cli.candidates import job_of
from autoquant.results.mlflow.ui import start_ui

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_LOADING_S = 15.0
_QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)
_CLOSE_ASSISTANT = "document.querySelectorAll('[aria-label=\"Close\"]').forEach(b => b.click())"


def shoot(url: str, width: int, height: int, name: str, *, scheme: str = "light") -> None:
    """Take a picture of a page once it has had time to load."""
    options = Options()
    for argument in (*_QUIET, f"--window-size={width},{height}"):
        options.add_argument(argument)
    browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(url)
        time.sleep(_LOADING_S)
        browser.execute_script(_CLOSE_ASSISTANT)
        time.sleep(2.0)
        browser.save_screenshot(str(IMAGES / name))
    finally:
        browser.quit()
    print(IMAGES / name)


def run_page(store: str, search_id: str) -> str:
    """Where MLflow's UI shows the report of a search."""
    client = MlflowClient(store)
    experiments = [item.experiment_id for item in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`autoquant.search_id` = '{search_id}'")
    run = next(item for item in found if "mlflow.parentRunId" not in item.data.tags)
    info = run.info
    return f"#/experiments/{info.experiment_id}/runs/{info.run_id}/artifacts/report.html"


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="result folder of a search")
    result = aq.load_result(parser.parse_args().result)
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "pareto.html"
        result.plot().write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        shoot(page.as_uri(), 1200, 500, "pareto.png")
    report = (result.folder / "report.html").absolute().as_uri()
    shoot(report, 1200, 1300, "report.png")
    shoot(report, 1200, 1300, "report-dark.png", scheme="dark")
    shoot(report, 390, 1300, "report-phone.png")
    store = job_of(result.folder).tracking_uri
    ui = start_ui(store)
    try:
        page_of_run = run_page(store, result.findings.facts.search_id)
        shoot(f"{ui.url}/{page_of_run}", 1500, 1760, "mlflow.png")
    finally:
        ui.close()


if __name__ == "__main__":
    main()
