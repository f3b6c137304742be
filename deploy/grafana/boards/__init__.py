"""All dashboards, in the order in which an operator needs them."""

from typing import Final

from deploy.grafana.boards.fallbacks import FALLBACKS
from deploy.grafana.boards.lanes import LANES
from deploy.grafana.boards.overhead import OVERHEAD
from deploy.grafana.boards.policy import POLICY
from deploy.grafana.boards.routes import ROUTES
from deploy.grafana.boards.worker import WORKER
from deploy.grafana.panels import Board

BOARDS: Final[tuple[Board, ...]] = (ROUTES, LANES, FALLBACKS, WORKER, POLICY, OVERHEAD)
