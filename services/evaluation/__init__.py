"""Suites of problems, put to a version of the policy through the endpoint."""
