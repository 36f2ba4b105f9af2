{{/* Names of the ports with a /metrics page. Takes (list root component answers). */}}
{{- define "gmpo.metricsPorts" -}}
{{- $root := index . 0 -}}
- metrics
- as-metrics
- dash-metrics
{{- if and (eq (index . 1) "training") $root.Values.training.metrics.enabled }}
- run-metrics
{{- end }}
{{- if index . 2 }}
- serve
{{- end }}
{{- end -}}
