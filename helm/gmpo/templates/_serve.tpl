{{/* The Serve application: the proxies listen, the keys are in a file that a Secret fills. */}}
{{- define "gmpo.serveConfig" -}}
{{- $required := dict "host" "0.0.0.0" "keys_file" "/etc/gmpo/keys/keys.json" -}}
{{- $_ := required "apiKeys.existingSecret is required by the endpoint: a Secret with the file of hashed keys that `gmpo policy key` makes" .Values.apiKeys.existingSecret -}}
http_options:
  host: 0.0.0.0
  port: 8000
applications:
  - name: policy
    import_path: services.policy.app:build
    route_prefix: /
    args:
      run_dir: {{ .Values.storage.mountPath }}/{{ with .Values.endpoint.runName }}{{ . }}{{ else }}{{ include "gmpo.runName" . }}{{ end }}
      {{- with .Values.endpoint.policies }}
      policies: {{ . }}
      {{- end }}
      serve:
        {{- toYaml (merge $required .Values.endpoint.serve) | nindent 8 }}
{{- end -}}
