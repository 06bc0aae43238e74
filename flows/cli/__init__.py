"""The console command `mailstay`: parses, calls flows and exported functions, prints. No logic lives here."""

from flows.cli.app import app, main

__all__ = ["app", "main"]
