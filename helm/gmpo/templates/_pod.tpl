{{/* A setting of the group if it has one, else of all pods. Takes (list root group key). */}}
{{- define "gmpo.setting" -}}
{{- $root := index . 0 -}}{{- $group := index . 1 -}}{{- $key := index . 2 -}}
{{- with hasKey $group $key | ternary (get $group $key) (get $root.Values $key) }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* Whom the pod runs as. Takes (list root group). */}}
{{- define "gmpo.podSecurityContext" -}}
{{- $root := index . 0 -}}
{{ toYaml $root.Values.podSecurityContext }}
seccompProfile:
  {{- include "gmpo.setting" (append . "seccompProfile") | nindent 2 }}
{{- end -}}

{{/* metadata of a pod. Takes (list root group component). */}}
{{- define "gmpo.podMetadata" -}}
{{- $root := index . 0 -}}{{- $group := index . 1 -}}
labels:
  {{- include "gmpo.podLabels" (list $root (index . 2)) | nindent 2 }}
  {{- with merge (dict) ($group.podLabels | default dict) $root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) ($group.podAnnotations | default dict) $root.Values.podAnnotations $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What every pod has beside containers and volumes. Takes (list root group). */}}
{{- define "gmpo.podSettings" -}}
{{- $root := index . 0 -}}{{- $group := index . 1 -}}
serviceAccountName: {{ include "gmpo.serviceAccountName" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
securityContext:
  {{- include "gmpo.podSecurityContext" . | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- $key := . }}
{{- with include "gmpo.setting" (list $root $group $key) }}
{{ $key }}:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}
{{- with include "gmpo.setting" (list $root $group "priorityClassName") }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Environment of every Ray container; the chart's own last, where nothing overrides it. Takes root, section and group. */}}
{{- define "gmpo.env" -}}
{{- with concat .root.Values.extraEnv (.group.extraEnv | default list) }}
{{- toYaml . }}
{{ end -}}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
- name: RAY_JOB_STOP_WAIT_TIME_S
  value: {{ .section.terminationGracePeriodSeconds | int | quote }}
- name: GMPO_RUN_ROOT
  value: {{ .root.Values.storage.mountPath }}
{{- end -}}

{{/* Of storage, trackers and models, whose credentials the pods of a part need: policies and checkpoints are in the storage, trackers hear
from the driver, and the endpoint's models are in the storage too. Takes the part. */}}
{{- define "gmpo.credentials" -}}
- storage
{{- if not (hasPrefix "endpoint-" .) }}
- models
{{- if hasSuffix "-head" . }}
- trackers
{{- end }}
{{- end }}
{{- end -}}

{{/* Secrets and ConfigMaps that become environment variables. Takes root, section, group and part. */}}
{{- define "gmpo.envFrom" -}}
{{- $secrets := dict "trackers" .root.Values.trackers.credentialsSecret "models" .root.Values.models.credentialsSecret -}}
{{- $_ := set $secrets "storage" (default .root.Values.storage.credentialsSecret .section.storageCredentialsSecret) -}}
{{- range hasKey .group "credentials" | ternary .group.credentials (include "gmpo.credentials" .part | fromYamlArray) }}
{{- with get $secrets . }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end }}
{{- with .root.Values.envFrom }}
{{ toYaml . }}
{{- end }}
{{- with .group.envFrom }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Ports of the Ray container. Takes root, part and answers. */}}
{{- define "gmpo.ports" -}}
- name: metrics
  containerPort: 8080
{{- if hasSuffix "-head" .part }}
- name: gcs
  containerPort: 6379
- name: dashboard
  containerPort: 8265
- name: client
  containerPort: 10001
- name: as-metrics
  containerPort: 44217
- name: dash-metrics
  containerPort: 44227
{{- end }}
{{- if and (eq .part "training-head") .root.Values.training.metrics.enabled }}
- name: run-metrics
  containerPort: {{ int .root.Values.training.metrics.port }}
{{- end }}
{{- if .answers }}
- name: serve
  containerPort: 8000
{{- end }}
{{- end -}}

{{/* A claim that one node alone may mount keeps the pods that mount it together, unless their affinity is given. Takes (list root group). */}}
{{- define "gmpo.together" -}}
{{- $root := index . 0 -}}
{{- if not (or (has "ReadWriteMany" $root.Values.storage.accessModes) (include "gmpo.setting" (append . "affinity"))) -}}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "gmpo.selectorLabels" (list $root "") | nindent 12 }}
          matchExpressions:
            - {key: app.kubernetes.io/component, operator: NotIn, values: [submitter]}
{{- end -}}
{{- end -}}

{{/* Template of the pods of one group. Takes root, component, section, group and role (head or worker). */}}
{{- define "gmpo.podTemplate" -}}
{{- $root := .root -}}
{{- $group := merge (dict) .group (include "gmpo.together" (list .root .group) | fromYaml) -}}
{{- $answers := get (include "gmpo.clusters" $root | fromYaml | dig .component dict) "answers" -}}
{{- $autoscaled := and .section.autoscaling (eq .role "head") -}}
{{- $context := merge (dict "group" $group "part" (printf "%s-%s" .component .role) "answers" $answers "autoscaled" $autoscaled) . -}}
metadata:
  {{- include "gmpo.podMetadata" (list $root $group .component) | nindent 2 }}
spec:
  {{- include "gmpo.podSettings" (list $root $group) | nindent 2 }}
  {{- with include "gmpo.setting" (list $root $group "runtimeClassName") }}
  runtimeClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ int .section.terminationGracePeriodSeconds }}
  containers:
    - name: ray-{{ .role }}
      image: {{ include "gmpo.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      env:
        {{- include "gmpo.env" $context | nindent 8 }}
      {{- with include "gmpo.envFrom" $context }}
      envFrom:
        {{- trim . | nindent 8 }}
      {{- end }}
      ports:
        {{- include "gmpo.ports" $context | nindent 8 }}
      {{- with include "gmpo.lifecycle" $context }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- if eq $context.part "endpoint-worker" }}
      readinessProbe:
        httpGet:
          path: /-/healthz
          port: serve
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 1
      {{- end }}
      resources:
        {{- toYaml $group.resources | nindent 8 }}
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "gmpo.volumeMounts" $context | nindent 8 }}
  volumes:
    {{- include "gmpo.volumes" $context | trim | nindent 4 }}
{{- end -}}
