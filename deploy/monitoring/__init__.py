"""Prometheus rules and Grafana dashboards, made from what services/telemetry/metrics.py declares.

    python -m deploy.monitoring        # writes helm/gmpo/files/monitoring/; a test holds the files to what is made here

expressions.py   PromQL over declared metrics        rules.py        alerts and recording rules, and the rule file
pictures.py      a panel of some metrics             grafana.py      panels, and a dashboard of them, as JSON
run_board.py, endpoint_board.py                      run_alerts.py, endpoint_alerts.py
"""
