"""Benchmarks: ratios measured in one run, on the same work, against what a person would write without this project.

They need torch, transformers, numpy and pydantic (and rich and typer for the screen): neither Ray nor vLLM is imported here.
"""
