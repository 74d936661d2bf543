"""The operators' commands: preview, deploy and remove. Each is a module with a function `run`."""
