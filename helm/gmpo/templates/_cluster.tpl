{{/* Spec of a RayCluster, the same for the job, the endpoint and the shared one. Takes root, component and section (values of that part). */}}
{{- define "gmpo.clusterSpec" -}}
{{- $context := . -}}
rayVersion: {{ .root.Values.rayVersion | quote }}
authOptions:
  mode: token
  {{- with .root.Values.auth.existingSecret }}
  secretName: {{ . }}
  {{- end }}
{{- if .section.autoscaling }}
enableInTreeAutoscaling: true
autoscalerOptions:
  {{- include "gmpo.autoscalerOptions" . | nindent 2 }}
{{- end }}
{{- if .section.gcsFaultTolerance }}
gcsFaultToleranceOptions:
  {{- with .root.Values.redis }}
  redisAddress: {{ required "redis.address is required by gcsFaultTolerance" .address }}
  {{- if .passwordSecret.name }}
  redisPassword:
    valueFrom:
      secretKeyRef:
        {{- toYaml .passwordSecret | nindent 8 }}
  {{- end }}
  {{- end }}
{{- end }}
headGroupSpec:
  {{- $head := .section.head }}
  {{- /* With workers, the head is for the driver alone: what loads a node must not take the cluster's heart with it. */}}
  {{- $offers := merge (dict) ($head.rayResources | default dict) (.section.workerGroups | empty | ternary dict (dict "CPU" 0)) }}
  {{- include "gmpo.rayGroup" (merge (dict "group" $head "role" "head" "offers" $offers) .) | trim | nindent 2 }}
{{- with .section.workerGroups }}
workerGroupSpecs:
  {{- range $name, $group := . }}
  {{- $replicas := int (dig "replicas" 1 $group) }}
  - groupName: {{ $name }}
    {{- /* Left out, it is the autoscaler's to set: an upgrade would undo that. */}}
    {{- if not $context.section.autoscaling }}
    replicas: {{ $replicas }}
    {{- end }}
    minReplicas: {{ int (dig "minReplicas" $replicas $group) }}
    maxReplicas: {{ int (dig "maxReplicas" $replicas $group) }}
    {{- if and $context.section.autoscaling $group.idleTimeoutSeconds }}
    idleTimeoutSeconds: {{ int $group.idleTimeoutSeconds }}
    {{- end }}
    {{- include "gmpo.rayGroup" (merge (dict "group" $group "role" "worker" "offers" ($group.rayResources | default dict)) $context) | trim | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What head and workers have in common. Takes what clusterSpec takes, and group, role and offers (Ray resources by name). */}}
{{- define "gmpo.rayGroup" -}}
{{- with .group.rayStartParams }}
rayStartParams:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .offers }}
resources:
  {{- range $name, $amount := . }}
  {{ $name }}: {{ $amount | quote }}
  {{- end }}
{{- end }}
{{- with .group.rayLabels }}
labels:
  {{- toYaml . | nindent 2 }}
{{- end }}
template:
  {{- include "gmpo.podTemplate" . | nindent 2 }}
{{- end -}}

{{- define "gmpo.autoscalerOptions" -}}
version: v2
{{- with .root.Values.autoscaler }}
idleTimeoutSeconds: {{ int .idleTimeoutSeconds }}
upscalingMode: {{ .upscalingMode }}
resources:
  {{- toYaml .resources | nindent 2 }}
{{- end }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
volumeMounts:
  {{- include "gmpo.scratchMounts" . | nindent 2 }}
  - name: service-account
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
{{- end -}}
