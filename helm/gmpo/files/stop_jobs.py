"""Asks every job of the Ray cluster on this machine to end, and waits until they have."""

import time

from ray.job_submission import JobSubmissionClient

jobs = JobSubmissionClient("http://127.0.0.1:8265")
asked = [job.submission_id for job in jobs.list_jobs() if job.submission_id and not job.status.is_terminal()]
for job in asked:
    jobs.stop_job(job)
while not all(jobs.get_job_status(job).is_terminal() for job in asked):
    time.sleep(1)
