"""The steps of Mailstay, one package per concern; see DESIGN in docs/architecture.md for what each knows."""
