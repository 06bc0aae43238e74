"""Prefect's own command line (`python -m flows.cli.tied_prefect server start`), ended with who started it."""

import runpy

from tasks.core import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
