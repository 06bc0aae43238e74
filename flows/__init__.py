"""The runbooks: one file, one flow, a DAG of tasks that reads as the story."""
