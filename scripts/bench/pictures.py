"""Renew docs/images: of a finished search the Pareto plot, the report and MLflow's UI; a notebook.

    python scripts/bench/pictures.py out/demo-20260101-120000

Needs Chromium, its driver, selenium and nbconvert; scripts/pictures brings the last two.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import nbformat
from mlflow import MlflowClient
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

import autoquant as aq
from autoquant.cli.candidates import job_of
from autoquant.results.mlflow.ui import experiment_pages, start_ui

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
NOTEBOOK = ROOT / "examples" / "first_search.ipynb"
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


def shoot_notebook(scratch: Path) -> None:
    """Run the first notebook in a folder of its own, and take a picture of its first answer."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    ExecutePreprocessor(timeout=900).preprocess(notebook, {"metadata": {"path": str(scratch)}})
    page, _ = HTMLExporter().from_notebook_node(notebook)
    found = scratch / "notebook.html"
    found.write_text(page)
    shoot(f"{found.as_uri()}#The-search", 1000, 1500, "notebook.png")


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="result folder of a search")
    result = aq.load_result(parser.parse_args().result)
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "pareto.html"
        result.plot().write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
        shoot(page.as_uri(), 1200, 500, "pareto.png")
        shoot_notebook(Path(scratch))
    report = (result.folder / "report.html").absolute().as_uri()
    shoot(report, 1200, 1300, "report.png")
    shoot(report, 1200, 1300, "report-dark.png", scheme="dark")
    shoot(report, 390, 1300, "report-phone.png")
    job = job_of(result.folder)
    store = job.tracking_uri
    ui = start_ui(store)
    try:
        page_of_run = run_page(store, result.findings.facts.search_id)
        shoot(f"{ui.url}/{page_of_run}", 1500, 1760, "mlflow.png")
        pages = experiment_pages(ui.url, store, job.experiment)
        shoot(pages.runs, 1500, 700, "mlflow-runs.png")
        if pages.charts is not None:
            shoot(pages.charts, 1500, 900, "mlflow-charts.png")
    finally:
        ui.close()


if __name__ == "__main__":
    main()
