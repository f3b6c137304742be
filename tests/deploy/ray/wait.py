"""Run with the environment of Ray: wait until all replicas of the application have loaded their weights."""

import sys
import time

import ray
from ray import serve

ray.init(log_to_driver=False)  # the cluster that RAY_ADDRESS names
while True:
    application = serve.status().applications.get("twolane")
    if application is not None and application.status == "RUNNING":
        sys.exit(0)
    if application is not None and application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
        sys.exit(str(application))
    time.sleep(0.2)
