{{/* The pod that hands the job to the cluster and shows its log. */}}
{{- define "gmpo.submitter" -}}
{{- $submitter := .Values.training.submitter -}}
metadata:
  {{- include "gmpo.podMetadata" (list . $submitter "submitter") | nindent 2 }}
spec:
  {{- include "gmpo.podSettings" (list . $submitter) | nindent 2 }}
  containers:
    - name: ray-job-submitter
      image: {{ include "gmpo.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      env:
        - name: RAY_AUTH_MODE
          value: token
      resources:
        {{- toYaml $submitter.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "gmpo.scratchMounts" . | nindent 8 }}
  volumes:
    {{- include "gmpo.scratchVolumes" "1Gi" | trim | nindent 4 }}
{{- end -}}
